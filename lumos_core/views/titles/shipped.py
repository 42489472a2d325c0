"""What the bundled language model computes about the bundled catalog, shipped with LUMOS.

One shipped file holds two files of the cache (of `embeddings` and `judgements`, in this package).
File names in the cache are digests of all that the contents depend on, so these are not used with
another model, catalog or code. ``benchmarks/bundled_stage.py`` writes the shipped file; a test
computes a part of it again.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lumos_core.data.sample import bundled_sample
from lumos_core.safe_files import write_atomically
from lumos_core.views.titles.resumable import write_arrays

log = logging.getLogger(__name__)

STAGE = "stage.safetensors"
DIGEST = "stage.sha256"
_NAMES = "files"  # in the metadata: name of an array -> name of its file in the cache


def seed_cache(cache: Path, folder: Path | None = None) -> bool:
    """Put the shipped files into a cache, unless they are there.

    Args:
        cache: see :func:`lumos_core.views.llm.find.default_cache`.
        folder: of the shipped file; the installed sample's by default.

    Returns:
        Whether the cache has them now. A shipped file that is missing (as in the app that Flower
        sends to nodes) or damaged is not an error: then every machine computes for itself.
    """
    folder = folder or bundled_sample()
    try:
        content = (folder / STAGE).read_bytes()
        wanted = (folder / DIGEST).read_text("ascii").split()[0]
    except (OSError, IndexError):
        return False
    if hashlib.sha256(content).hexdigest() != wanted:
        log.warning("%s is damaged: its SHA-256 is not that of %s; not used", STAGE, DIGEST)
        return False
    from safetensors.numpy import load

    names: dict[str, str] = json.loads(_metadata(content)[_NAMES])
    if not all((cache / "catalogs" / file).exists() for file in names.values()):
        arrays = load(content)
        for name, file in names.items():
            write_arrays(cache / "catalogs" / file, {name: arrays[name]})
    return True


def write_shipped(
    folder: Path, arrays: Mapping[str, npt.NDArray[Any]], files: Mapping[str, str]
) -> None:
    """Write the file and its digest.

    Args:
        arrays: "vectors" [N, H] and "prior" [N]; vectors are kept as float16.
        files: name of an array -> name of its file in the cache.
    """
    from safetensors.numpy import save

    small = {n: a.astype(np.float16) if n == "vectors" else a for n, a in arrays.items()}
    content = save(
        {name: np.ascontiguousarray(array) for name, array in small.items()},
        metadata={_NAMES: json.dumps(dict(files))},
    )
    write_atomically(folder / STAGE, content)
    digest = hashlib.sha256(content).hexdigest()
    write_atomically(folder / DIGEST, f"{digest}  {STAGE}\n".encode())


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return found
