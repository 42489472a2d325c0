"""The catalog artefact: one file with what a language model says about a catalog's titles.

It lies beside ``catalog.tsv`` as ``catalog.safetensors``, so that machines with the same model need
not read the titles again. Three kinds of arrays are in it:

- per title, found by the SHA-256 of its text: vectors of meaning and of wording, and the prior;
- the basis (:mod:`~lumos_core.views.titles.frozen_basis`), which says how they were made and which
  stays as it is when titles are added;
- as metadata: who read the titles, how, and a digest of everything in the file.

Such a file may come from anybody. Nothing in it is used before names, types, sizes and values of
all arrays are those of an artefact. Whether it is true is another question, see
:mod:`~lumos_core.views.titles.artefact_reading`.
"""

import hashlib
import json
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
import numpy.typing as npt

from lumos_core.errors import ArtefactError, reason_of
from lumos_core.safe_files import refuse_newer, write_atomically
from lumos_core.views.titles.artefact_pieces import MAX_BYTES
from lumos_core.views.titles.embeddings import DIM
from lumos_core.views.titles.frozen_basis import (
    Floats,
    FrozenBasis,
    Halves,
    Projection,
    WordingProjection,
)

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Arrays = dict[str, npt.NDArray[Any]]

FORMAT, FORMAT_VERSION = "lumos-catalog", 1
KEY_BYTES = 16
_HEADER_BYTES = 64 * 1024
_TEXT = 1000  # most characters of a text in the metadata
_WIDEST = 65_536  # of a model's hidden states
_CONTEXTS, _CONTEXT_TOKENS = 16, 4096  # at most
_RAREST = 100.0  # log of a number of titles
_ROUNDING = 0.01  # by which the length of a vector in float16 may differ from 1
_REPAIR = (
    "copy the file again from where it was made, make it with 'lumos catalog build', or delete it: "
    "then this machine reads the titles itself"
)
_READINGS = range(3)
_TENSORS: Mapping[str, tuple[str, int]] = {
    "keys": ("U8", 2),
    "meaning": ("F16", 2),
    "wording": ("F16", 2),
    "prior": ("F32", 1),
    **{f"basis.mean.{n}": ("F32", 1) for n in _READINGS},
    **{f"basis.axes.{n}": ("F32", 2) for n in _READINGS},
    **{f"basis.divisors.{n}": ("F32", 1) for n in _READINGS},
    "basis.rarity.tokens": ("I64", 1),
    "basis.rarity.values": ("F32", 1),
    "basis.unseen": ("F32", 1),
    "basis.titles": ("U8", 1),
    "basis.coordinates": ("F16", 2),
    "basis.contexts": ("I64", 2),
}
"""Every array of a file: its type as safetensors names it, and its number of dimensions."""


@dataclass(frozen=True)
class About:
    """Who read the titles of an artefact, and how.

    Attributes:
        model: fingerprint of the language model and its quantisation.
        llm: the model as the configuration named it; for people.
        quantization: as in the configuration; for people.
        noun: what a history is, in the domain's words; priors depend on it.
        recipe: versions of prompts and code that made the arrays.
        lumos: version of LUMOS that wrote the file; for people.
        basis: SHA-256 hex of the basis and of what it depends on.
        digest: SHA-256 hex of everything in the file but this.
    """

    model: str
    llm: str
    quantization: str
    noun: str
    recipe: str
    lumos: str
    basis: str = ""
    digest: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """What a file says about itself; its arrays are neither read nor checked.

        Raises:
            ArtefactError: the file is no artefact.
            NewerFileError: a newer LUMOS wrote it.
            OSError: it cannot be read.
        """
        return cls.of(path, read_header(path))

    @classmethod
    def of(cls, path: Path, header: Mapping[str, Any]) -> Self:
        """What the header of a file says."""
        found = header.get("__metadata__")
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            refuse(path, "another kind of safetensors file", f"format = {FORMAT!r}")
        version = str(found.get("format-version"))
        if not version.isascii() or not version.isdigit() or len(version) > 6 or int(version) < 1:
            refuse(path, f"format-version = {version[:20]!r}", "a whole number from 1")
        refuse_newer(path, int(version), FORMAT_VERSION)
        texts = {}
        for name in cls.__dataclass_fields__:
            text = found.get(name)
            if not isinstance(text, str) or len(text) > _TEXT or not text.isprintable():
                refuse(path, f"metadata {name} = {str(text)[:40]!r}", "a short line of text")
            texts[name] = text
        return cls(**texts)

    def metadata(self) -> dict[str, str]:
        """As it stands in a file."""
        texts = {name: str(getattr(self, name)) for name in self.__dataclass_fields__}
        return {"format": FORMAT, "format-version": str(FORMAT_VERSION), **texts}


class TitleRows(NamedTuple):
    """What an artefact holds of titles, one row each."""

    meaning: Halves
    """[R, H] rows of length 1 (or 0)."""
    wording: Halves
    """[R, W] rows of length 1 (or 0)."""
    prior: Floats
    """[R] mean log p(title) behind the contexts of the basis."""

    def take(self, rows: Any) -> "TitleRows":
        """Some of the rows."""
        return TitleRows(*(array[rows] for array in self))

    def followed_by(self, others: "TitleRows") -> "TitleRows":
        """These rows, then the others."""
        return TitleRows(
            np.concatenate([self.meaning, others.meaning]),
            np.concatenate([self.wording, others.wording]),
            np.concatenate([self.prior, others.prior]),
        )


@dataclass(frozen=True)
class CatalogArtefact:
    """The content of a file.

    Attributes:
        about: who read the titles.
        basis: how titles become rows.
        keys: uint8 [R, 16] digests of the titles' texts, in the order in which they were added.
        rows: of these titles.
    """

    about: About
    basis: FrozenBasis
    keys: Bytes
    rows: TitleRows

    @classmethod
    def sealed(
        cls, about: About, basis: FrozenBasis, titles: Iterable[bytes], rows: TitleRows
    ) -> Self:
        """An artefact with its digests.

        Args:
            about: its ``basis`` and ``digest`` are computed here.
            basis: how the rows were made.
            titles: :func:`title_key` of each row.
            rows: of the titles.
        """
        keys = np.frombuffer(b"".join(titles), dtype=np.uint8).reshape(-1, KEY_BYTES)
        arrays = _basis_arrays(basis)
        about = replace(about, basis=_basis_digest(about, arrays), digest="")
        new = cls(about, basis, keys, rows)
        return replace(new, about=replace(about, digest=_digest(about.metadata(), new.arrays())))

    def __len__(self) -> int:
        """The number of titles."""
        return len(self.keys)

    @cached_property
    def _row_of(self) -> dict[bytes, int]:
        return {key.tobytes(): row for row, key in enumerate(self.keys)}

    def missing(self, titles: Iterable[str]) -> list[str]:
        """The titles that it lacks, each once, in the order given."""
        return [title for title in dict.fromkeys(titles) if title_key(title) not in self._row_of]

    def of(self, titles: Sequence[str]) -> TitleRows:
        """The rows of titles, none of which is missing."""
        return self.rows.take([self._row_of[title_key(title)] for title in titles])

    def arrays(self) -> Arrays:
        """As they stand in a file."""
        return {"keys": self.keys, **self.rows._asdict(), **_basis_arrays(self.basis)}

    def write(self, path: Path) -> None:
        """Write the file atomically; equal artefacts are equal files."""
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays().items()}
        content = save(arrays, metadata=self.about.metadata())
        end = 8 + int.from_bytes(content[:8], "little")
        # safetensors writes the metadata in an order of its own each time
        header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
        header += b" " * (-len(header) % 8)
        write_atomically(path, len(header).to_bytes(8, "little") + header + content[end:])

    @classmethod
    def read(cls, path: Path) -> Self:
        """The content of a file, all of it checked.

        Raises:
            ArtefactError: the file is damaged, or is no artefact.
            NewerFileError: a newer LUMOS wrote it.
            OSError: it cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        size = _checked_size(path)
        with path.open("rb") as file:
            content = file.read(size)
        header = _header(path, content, size)
        about = About.of(path, header)
        _check_shapes(path, header)
        try:
            arrays = load(content)
        except (SafetensorError, ValueError) as error:
            refuse(path, f"a damaged file ({str(error)[:100]})", "a safetensors file")
        _check_digests(path, about, arrays)
        _check_values(path, arrays)
        rows = TitleRows(arrays["meaning"], arrays["wording"], arrays["prior"])
        return cls(about, _basis_of(path, arrays), arrays["keys"], rows)


def title_key(title: str) -> bytes:
    """What a title's row is found by."""
    return hashlib.sha256(title.encode()).digest()[:KEY_BYTES]


def read_keys(path: Path) -> set[bytes]:
    """The keys of a file's titles, without its other arrays.

    Raises:
        ArtefactError: the file is damaged, or is no artefact.
    """
    from safetensors import SafetensorError, safe_open

    _check_shapes(path, read_header(path))
    try:
        with safe_open(path, framework="numpy") as file:
            keys = file.get_tensor("keys")
    except (SafetensorError, ValueError) as error:
        refuse(path, f"a damaged file ({str(error)[:100]})", "a safetensors file")
    return {key.tobytes() for key in keys}


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, as JSON; nothing in it is checked.

    Raises:
        ArtefactError: the file is no safetensors file, or is too large.
        OSError: it cannot be read.
    """
    size = _checked_size(path)
    with path.open("rb") as file:
        return _header(path, file.read(8 + _HEADER_BYTES), size)


def _checked_size(path: Path) -> int:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        refuse(path, "no regular file", "a safetensors file")
    if found.st_size > MAX_BYTES:
        refuse(path, f"{found.st_size:,} bytes", f"at most {MAX_BYTES:,}")
    return found.st_size


def _header(path: Path, content: bytes, size: int) -> dict[str, Any]:
    """The header in the first bytes of a file of that size."""
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(_HEADER_BYTES, size - 8):
        refuse(path, "no header of a catalog artefact", "a safetensors file")
    try:
        header = json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError):
        refuse(path, "a header that is not JSON", "a safetensors file")
    if not isinstance(header, dict):
        refuse(path, "a header that is no JSON object", "a safetensors file")
    return header


def refuse(path: Path, found: str, expected: str, repair: str = _REPAIR) -> NoReturn:
    """Raise the error that names a file, what was found, what was expected, what to do."""
    raise ArtefactError(
        f"{path}: catalog artefact refused: found {found}, expected {expected}; {repair}"
    )


def because_of(path: Path, error: OSError) -> ArtefactError:
    """The error for a file that the system does not let this machine read."""
    return ArtefactError(f"{path}: catalog artefact cannot be read: {reason_of(error)}; {_REPAIR}")


# ---------------------------------------------------------------- the basis as arrays
def _basis_arrays(basis: FrozenBasis) -> Arrays:
    arrays: Arrays = {}
    for n, projection in enumerate(basis.projections):
        arrays[f"basis.mean.{n}"] = projection.mean
        arrays[f"basis.axes.{n}"] = projection.axes
        arrays[f"basis.divisors.{n}"] = projection.divisors
    tokens = sorted(basis.rarity)
    arrays["basis.rarity.tokens"] = np.asarray(tokens, dtype=np.int64)
    values = [basis.rarity[token] for token in tokens]
    arrays["basis.rarity.values"] = np.asarray(values, dtype=np.float32)
    arrays["basis.unseen"] = np.asarray([basis.unseen], dtype=np.float32)
    titles = "\n".join(basis.wording.titles).encode()
    arrays["basis.titles"] = np.frombuffer(titles, dtype=np.uint8)
    arrays["basis.coordinates"] = basis.wording.coordinates
    longest = max(map(len, basis.contexts))
    contexts = [[*context, *[-1] * (longest - len(context))] for context in basis.contexts]
    arrays["basis.contexts"] = np.asarray(contexts, dtype=np.int64)
    return arrays


def _basis_of(path: Path, arrays: Arrays) -> FrozenBasis:
    """The basis in arrays that have been checked."""
    try:
        titles = tuple(arrays["basis.titles"].tobytes().decode().split("\n"))
    except UnicodeDecodeError:
        refuse(path, "titles that are not UTF-8", "text")
    if len(titles) != len(arrays["basis.coordinates"]):
        refuse(path, f"{len(titles)} titles", f"{len(arrays['basis.coordinates'])}")
    names = ("mean", "axes", "divisors")
    return FrozenBasis(
        tuple(Projection(*(arrays[f"basis.{name}.{n}"] for name in names)) for n in _READINGS),
        dict(
            zip(
                arrays["basis.rarity.tokens"].tolist(),
                arrays["basis.rarity.values"].tolist(),
                strict=True,
            )
        ),
        float(arrays["basis.unseen"][0]),
        WordingProjection(titles, arrays["basis.coordinates"]),
        tuple(tuple(context[context >= 0].tolist()) for context in arrays["basis.contexts"]),
    )


# ---------------------------------------------------------------- digests
def _basis_digest(about: About, basis: Arrays) -> str:
    return _digest({"model": about.model, "noun": about.noun, "recipe": about.recipe}, basis)


def _digest(texts: Mapping[str, str], arrays: Arrays) -> str:
    """SHA-256 hex of texts and arrays, in whatever order a file has them."""
    digest = hashlib.sha256(json.dumps(dict(texts), sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _check_digests(path: Path, about: About, arrays: Arrays) -> None:
    found = _digest(replace(about, digest="").metadata(), arrays)
    if found != about.digest:
        refuse(path, f"content with the digest {found}", f"{about.digest}, as its header says")
    basis = {name: array for name, array in arrays.items() if name.startswith("basis.")}
    if _basis_digest(about, basis) != about.basis:
        refuse(path, "another basis", f"the basis {about.basis[:16]}, as its header says")


# ---------------------------------------------------------------- shapes and values
def _check_shapes(path: Path, header: Mapping[str, Any]) -> None:
    """All arrays are there, of the right types, and their sizes fit each other."""
    names = header.keys() - {"__metadata__"}
    if names != _TENSORS.keys():
        odd = sorted(names ^ _TENSORS.keys())[0]
        extra = "no array" if odd in _TENSORS else "an array"
        refuse(path, f"{extra} {odd[:40]!r}", "the arrays of an artefact")
    shapes: dict[str, list[int]] = {}
    for name, (kind, dimensions) in _TENSORS.items():
        entry = header[name]
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if (
            not isinstance(shape, list)
            or len(shape) != dimensions
            or not all(type(size) is int and 0 <= size <= MAX_BYTES for size in shape)
            or entry.get("dtype") != kind
        ):
            refuse(path, f"{name}: {str(entry)[:80]}", f"{kind} in {dimensions} dimensions")
        shapes[name] = shape
    for what, expected in _expected_shapes(shapes):
        if shapes[what] != expected:
            refuse(path, f"{what} of shape {shapes[what]}", f"{expected}")
    for what, found, least, most in _limits(shapes):
        if not least <= found <= most:
            refuse(path, f"{found:,} {what}", f"from {least} to {most:,}")


def _expected_shapes(shapes: Mapping[str, list[int]]) -> Iterator[tuple[str, list[int]]]:
    """Shapes that follow from others."""
    titles = shapes["keys"][0]
    widths = [shapes[f"basis.axes.{n}"][1] for n in _READINGS]
    hidden = shapes["basis.mean.0"][0]
    yield "keys", [titles, KEY_BYTES]
    yield "meaning", [titles, sum(max(width, 1) for width in widths)]
    yield "wording", [titles, shapes["basis.coordinates"][1]]
    yield "prior", [titles]
    for n, width in enumerate(widths):
        yield f"basis.mean.{n}", [hidden]
        yield f"basis.axes.{n}", [hidden, width]
        yield f"basis.divisors.{n}", [width]
    yield "basis.rarity.values", shapes["basis.rarity.tokens"]
    yield "basis.unseen", [1]


def _limits(shapes: Mapping[str, list[int]]) -> Iterator[tuple[str, int, int, int]]:
    """What, how many there are, fewest, most."""
    yield "titles", shapes["keys"][0], 1, MAX_BYTES
    yield "hidden values", shapes["basis.mean.0"][0], 1, _WIDEST
    for n in _READINGS:
        yield f"axes of reading {n}", shapes[f"basis.axes.{n}"][1], 0, DIM
    yield "coordinates of wording", shapes["basis.coordinates"][1], 1, _WIDEST
    yield "contexts", shapes["basis.contexts"][0], 1, _CONTEXTS
    yield "tokens of a context", shapes["basis.contexts"][1], 1, _CONTEXT_TOKENS


def _check_values(path: Path, arrays: Arrays) -> None:
    """All numbers are such as reading titles can lead to."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            refuse(path, f"{name} with values that are not finite", "numbers")
    for name in ("meaning", "wording"):
        lengths = np.linalg.norm(arrays[name].astype(np.float32), axis=1)
        if not np.all((np.abs(lengths - 1) <= _ROUNDING) | (lengths == 0)):
            refuse(path, f"{name} with vectors of other lengths", "length 1 (or 0)")
    if (arrays["prior"] > 0).any():
        refuse(path, "priors above 0", "logarithms of probabilities")
    if len(np.unique(arrays["keys"], axis=0)) != len(arrays["keys"]):
        refuse(path, "two rows for one title", "one row for each")
    for n in _READINGS:
        axes, divisors = arrays[f"basis.axes.{n}"], arrays[f"basis.divisors.{n}"]
        with np.errstate(over="ignore", invalid="ignore"):
            errors = np.abs(axes.T @ axes - np.eye(axes.shape[1]))
        if not (errors <= _ROUNDING).all():  # of huge values the product is not a number
            refuse(path, f"axes of reading {n} that are not orthonormal", "directions of length 1")
        if (divisors <= 0).any() or (np.diff(divisors) > 0).any():
            refuse(path, f"divisors of reading {n} out of order", "positive ones, largest first")
    tokens = arrays["basis.rarity.tokens"]
    if (np.diff(tokens) <= 0).any() or (tokens < 0).any():
        refuse(path, "tokens out of order", "each token once, smallest first")
    for name in ("basis.rarity.values", "basis.unseen"):
        if (arrays[name] < 0).any() or (arrays[name] > _RAREST).any():
            refuse(path, f"{name} out of range", f"from 0 to {_RAREST:g}")
    if np.abs(arrays["basis.coordinates"]).max(initial=0) > 1 + _ROUNDING:
        refuse(path, "coordinates above 1", "those of vectors of length 1")
    contexts = arrays["basis.contexts"]
    padding = contexts < 0
    if (contexts < -1).any() or padding[:, 0].any() or (padding[:, :-1] & ~padding[:, 1:]).any():
        refuse(path, "contexts that are no lists of tokens", "tokens, then padding")
