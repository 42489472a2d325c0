"""The file of a catalog artefact: everything in it is checked before it is used."""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_llm import save_tiny_llm

from lumos_core.data.catalog import Catalog
from lumos_core.errors import ArtefactError, NewerFileError
from lumos_core.views.llm.find import LLMConfig
from lumos_core.views.llm.load import load_llm
from lumos_core.views.titles import catalog_artefact
from lumos_core.views.titles.artefact_reading import build_artefact
from lumos_core.views.titles.catalog_artefact import (
    About,
    CatalogArtefact,
    TitleRows,
    read_keys,
    title_key,
)
from lumos_core.views.titles.frozen_basis import FrozenBasis, Projection

TITLES = ("red pen", "blue pen", "desk", "lamp", "garden hose", "hose", "ink", "red pen")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> CatalogArtefact:
    folder = tmp_path_factory.mktemp("model")
    choice = LLMConfig(str(save_tiny_llm(folder)), device="cpu", cache_dir=folder / "cache")
    catalog = Catalog(tuple(f"i{n}" for n in range(len(TITLES))), TITLES)
    return build_artefact(load_llm(choice), choice, catalog, "things seen")


@pytest.fixture
def path(sound: CatalogArtefact, tmp_path: Path) -> Path:
    sound.write(tmp_path / "catalog.safetensors")
    return tmp_path / "catalog.safetensors"


def test_what_was_written_is_read(sound: CatalogArtefact, path: Path) -> None:
    found = CatalogArtefact.read(path)
    assert found.about == sound.about == About.read(path)
    assert found.basis.rarity == sound.basis.rarity
    assert found.basis.contexts == sound.basis.contexts
    assert found.basis.wording.titles == TITLES
    for name, array in sound.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array)
    assert read_keys(path) == {title_key(title) for title in TITLES}
    assert len(found) == 7  # equal titles have one row


def test_rows_are_found_by_the_titles_text(sound: CatalogArtefact) -> None:
    rows = sound.of(["lamp", "red pen", "lamp"])
    np.testing.assert_array_equal(rows.prior[[0, 2]], sound.rows.prior[[3, 3]])
    np.testing.assert_array_equal(rows.meaning[1], sound.rows.meaning[0])
    assert sound.missing(["lamp", "chair", "desk", "chair", "Lamp"]) == ["chair", "Lamp"]


def test_every_changed_byte_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(64), *rng.integers(64, len(content), 150).tolist()]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises((ArtefactError, NewerFileError), match=r"catalog\.safetensors"):
            CatalogArtefact.read(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, -1])
def test_a_file_cut_short_is_refused(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    for read in (CatalogArtefact.read, read_keys):
        with pytest.raises(ArtefactError, match=r"refused: found .*expected .*lumos catalog build"):
            read(path)


def test_what_is_no_file_or_too_large_is_refused_unread(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would wait forever
    with pytest.raises(ArtefactError, match="no regular file"):
        CatalogArtefact.read(tmp_path / "pipe")
    monkeypatch.setattr(catalog_artefact, "MAX_BYTES", 1000)
    with pytest.raises(ArtefactError, match="at most 1,000"):
        CatalogArtefact.read(path)


# ---------------------------------------------------------------- headers
def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the header of a file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    changed = json.dumps(change(header) or header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])


def metadata(**texts: str) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["__metadata__"].update(texts)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda h: h.pop("__metadata__") and None, "another kind"),
        (metadata(format="other"), "another kind"),
        (metadata(**{"format-version": "-1"}), "format-version"),
        (metadata(**{"format-version": "²"}), "format-version"),
        (metadata(llm="\x1b[2J"), "metadata llm"),
        (metadata(noun="x" * 2000), "metadata noun"),
        (lambda h: h["__metadata__"].pop("digest") and None, "metadata digest"),
        (lambda h: h.pop("prior") and None, "no array 'prior'"),
        (lambda h: h.update(extra=h["prior"]), "array 'extra'"),
        (lambda h: h["prior"].update(dtype="F64"), "prior: "),
        (lambda h: h["prior"].update(shape=[7, 1]), "prior: "),
        (lambda h: h["prior"].update(shape=[-7]), "prior: "),
        (lambda h: h["prior"].update(shape=[True]), "prior: "),
        (lambda h: h["prior"].update(shape=[8]), "prior of shape"),
        (lambda h: h.update(prior=3), "prior: 3"),
        (lambda h: h["meaning"].update(shape=[7, 1]), "meaning of shape"),
        (lambda h: [], "no JSON object"),
        (lambda h: h["prior"].update(data_offsets=[0, 0]), "damaged file"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(
    path: Path, change: Callable[[dict[str, Any]], Any], found: str
) -> None:
    if found == "no JSON object":
        path.write_bytes(struct.pack("<Q", 2) + b"[]" + path.read_bytes())
    else:
        rewritten(path, change)
    with pytest.raises(ArtefactError, match=found):
        CatalogArtefact.read(path)


def test_a_huge_array_is_refused_before_anything_is_read(path: Path) -> None:
    rewritten(path, lambda h: h["basis.titles"].update(shape=[2**60]))
    with pytest.raises(ArtefactError, match=r"basis\.titles"):
        CatalogArtefact.read(path)


def test_a_file_of_a_newer_lumos_is_told_apart(path: Path) -> None:
    rewritten(path, metadata(**{"format-version": "2"}))
    with pytest.raises(NewerFileError, match="update LUMOS"):
        CatalogArtefact.read(path)


def test_another_name_in_the_header_is_noticed(path: Path) -> None:
    rewritten(path, metadata(model="0" * 64))
    with pytest.raises(ArtefactError, match="digest"):
        CatalogArtefact.read(path)


# ---------------------------------------------------------------- values, with sound digests
def with_rows(a: CatalogArtefact, **arrays: Any) -> CatalogArtefact:
    return sealed(a, a.basis, a.rows._replace(**arrays))


def with_basis(a: CatalogArtefact, **fields: Any) -> CatalogArtefact:
    return sealed(a, replace(a.basis, **fields), a.rows)


def with_projection(a: CatalogArtefact, **fields: Any) -> CatalogArtefact:
    first, *others = a.basis.projections
    return with_basis(a, projections=(replace(first, **fields), *others))


def sealed(a: CatalogArtefact, basis: FrozenBasis, rows: TitleRows) -> CatalogArtefact:
    return CatalogArtefact.sealed(a.about, basis, (key.tobytes() for key in a.keys), rows)


def changed(array: Any, where: Any, value: float) -> Any:
    new = array.copy()
    new[where] = value
    return new


def first(a: CatalogArtefact) -> Projection:
    return a.basis.projections[0]


VALUES: dict[str, Callable[[CatalogArtefact], CatalogArtefact]] = {
    "meaning with values that are not finite": lambda a: with_rows(
        a, meaning=changed(a.rows.meaning, (0, 0), np.nan)
    ),
    "wording with vectors of other lengths": lambda a: with_rows(a, wording=2 * a.rows.wording),
    "prior with values that are not finite": lambda a: with_rows(
        a, prior=changed(a.rows.prior, 0, -np.inf)
    ),
    "priors above 0": lambda a: with_rows(a, prior=changed(a.rows.prior, 0, 1.0)),
    "two rows for one title": lambda a: CatalogArtefact.sealed(
        a.about, a.basis, [title_key("lamp")] * 7, a.rows
    ),
    "axes of reading 0 that are not orthonormal": lambda a: with_projection(
        a, axes=2 * first(a).axes
    ),
    "axes of reading 0 that are not orthonormal ": lambda a: with_projection(
        a, axes=np.full_like(first(a).axes, 3e38)
    ),
    "divisors of reading 0 out of order": lambda a: with_projection(
        a, divisors=first(a).divisors[::-1].copy()
    ),
    "divisors of reading 0 out of order ": lambda a: with_projection(
        a, divisors=-first(a).divisors
    ),
    "tokens out of order": lambda a: with_basis(a, rarity={-5: 1.0, **a.basis.rarity}),
    r"basis\.unseen out of range": lambda a: with_basis(a, unseen=-1.0),
    r"basis\.rarity\.values out of range": lambda a: with_basis(
        a, rarity={**a.basis.rarity, 7: 1e6}
    ),
    "coordinates above 1": lambda a: with_basis(
        a,
        wording=replace(a.basis.wording, coordinates=3 * np.ones_like(a.basis.wording.coordinates)),
    ),
    "contexts that are no lists of tokens": lambda a: with_basis(a, contexts=((3, -2), (3, 4))),
    "contexts that are no lists of tokens ": lambda a: with_basis(a, contexts=((), (3, 4))),
    "contexts that are no lists of tokens  ": lambda a: with_basis(a, contexts=((3, -1, 4),)),
    "9 titles, expected 8": lambda a: with_basis(
        a, wording=replace(a.basis.wording, titles=(*TITLES, "one more"))
    ),
}


@pytest.mark.parametrize("found", VALUES)
def test_values_that_no_reading_leads_to_are_refused(
    sound: CatalogArtefact, path: Path, found: str
) -> None:
    VALUES[found](sound).write(path)
    with pytest.raises(ArtefactError, match=f"refused: found .*{found.strip()}") as error:
        CatalogArtefact.read(path)
    assert str(path) in str(error.value)


def test_more_than_a_model_could_have_is_refused(sound: CatalogArtefact, path: Path) -> None:
    with_basis(sound, contexts=tuple((1,) for _ in range(17))).write(path)
    with pytest.raises(ArtefactError, match="17 contexts, expected from 1 to 16"):
        CatalogArtefact.read(path)
