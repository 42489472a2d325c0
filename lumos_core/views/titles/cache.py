"""Arrays that are computed once per machine: safetensors files in the cache folder."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lumos_core.safe_files import HeldError, exclusive, lock_beside
from lumos_core.views.titles.resumable import (
    WAITING,
    Arrays,
    BudgetSpentError,
    Pieces,
    StageProgress,
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
            with _alone(lock_beside(path), work):
                found = read_arrays(path)
                if found is None:
                    pieces = Pieces(path.with_name(f".{path.stem}.pieces"), work)
                    found = {name: np.ascontiguousarray(a) for name, a in compute(pieces).items()}
                    write_arrays(path, found)
                    pieces.clear()
        except HeldError:  # another process is still computing the file
            raise BudgetSpentError from None
    return found


@contextmanager
def _alone(lock: Path, work: Work) -> Iterator[None]:
    """Hold a lock; whoever has to wait for another process says so, because it does nothing else
    for minutes."""
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(lock, 0))
        except HeldError:
            work.report(StageProgress(WAITING, 0, 1))
            held.enter_context(exclusive(lock, work.seconds_left))
            work.report(StageProgress(WAITING, 1, 1))
        yield
