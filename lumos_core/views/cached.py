"""Arrays that are computed once per machine: safetensors files in the cache folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lumos_core.files import write_atomically
from lumos_core.views.llm import exclusive

Arrays = dict[str, npt.NDArray[Any]]


def cached_arrays(path: Path, compute: Callable[[], Mapping[str, npt.NDArray[Any]]]) -> Arrays:
    """The arrays of a file, computed and written first if it is missing or damaged.

    Several processes that want the same file compute it once: the others wait for the first.
    """
    found = _read(path)
    if found is None:
        with exclusive(path):
            found = _read(path)
            if found is None:
                from safetensors.numpy import save

                found = {name: np.ascontiguousarray(array) for name, array in compute().items()}
                write_atomically(path, save(found))
    return found


def _read(path: Path) -> Arrays | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        return None
    except SafetensorError:  # e.g. cut short by a full disk: as good as missing
        return None
