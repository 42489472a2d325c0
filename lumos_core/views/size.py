"""How many weights a model has, from its files' headers: nothing is loaded, nothing downloaded."""

import math
from pathlib import Path

from lumos_core.views.llm import BUNDLED, LLMConfig, ModelSource, converted_folder, find_model

_BUNDLED_SIZE = 134_515_008  # a header of GGUF takes seconds to read: it lists the vocabulary


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

    files = sorted(folder.glob("*.safetensors"))
    if not files:  # pickled weights tell by their size only: mostly two bytes a weight
        return sum(path.stat().st_size for path in folder.glob("*.bin")) // 2 or None
    total = 0
    for path in files:
        with safe_open(path, framework="numpy") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


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
    except Exception:  # no network: whatever is wrong, loading will say it better
        return None
    return info.safetensors.total if info.safetensors else None
