"""Arrays that are computed once per machine: safetensors files in the cache folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lumos_core.safe_files import HeldError, exclusive, lock_beside
from lumos_core.views.titles.resumable import (
    Arrays,
    BudgetSpentError,
    Pieces,
    Work,
    read_arrays,
    write_arrays,
)


def cached_arrays(
    path: Path,
    compute: Callable[[Pieces], Mapping[str, npt.NDArray[Any]]],
    work: Work | None = None,
) -> Arrays:
    """The arrays of a file, computed and written first if it is missing or damaged.

    Several processes that want the same file compute it once: one computes, the others wait. If
    that one is stopped, another resumes from the pieces that it has stored.

    Args:
        path: the file.
        compute: makes the arrays; stores partial results in the pieces it is given.
        work: budget and progress.

    Raises:
        BudgetSpentError: the time ended before the arrays were complete.
    """
    work = work or Work()
    found = read_arrays(path)
    if found is None:
        try:
            with exclusive(lock_beside(path), work.seconds_left):
                found = read_arrays(path)
                if found is None:
                    pieces = Pieces(path.with_name(f".{path.stem}.pieces"), work)
                    found = {name: np.ascontiguousarray(a) for name, a in compute(pieces).items()}
                    write_arrays(path, found)
                    pieces.clear()
        except HeldError:  # another process is still computing the file
            raise BudgetSpentError from None
    return found
