"""Long computations in pieces, each stored as soon as it is done, with a time budget and progress.

What a language model computes about a catalog takes minutes and is the same every time. So it must
be able to stop at any moment, when a budget ends or the process is killed, and to resume there.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lumos_core.safe_files import write_atomically

Arrays = dict[str, npt.NDArray[Any]]
_ROWS = "rows"  # name of the array that tells which rows a piece is about
WAITING = "waiting"
"""The stage of a process that waits for another one, which computes the same: 0 of 1, then 1."""


class StageProgress(NamedTuple):
    """How far a stage of the catalog's preparation has come."""

    stage: str
    done: int
    """Items (or questions about items) that are done, those stored earlier included."""
    total: int


OnStage = Callable[[StageProgress], None]


class BudgetSpentError(Exception):
    """The time is over. What was computed is stored; the next call resumes from there."""


class Work:
    """Limits the time of a computation and reports its progress.

    Args:
        seconds: budget from now on; None for no limit.
        on_stage: called before a stage and after each of its pieces.
    """

    def __init__(self, seconds: float | None = None, on_stage: OnStage | None = None) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._on_stage = on_stage
        self._advanced = False

    @property
    def seconds_left(self) -> float | None:
        """At least 0; None for no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def check(self) -> None:
        """Raise BudgetSpentError after the deadline, but never before a first piece is done:
        repeated calls finish the work even if loading the model alone takes longer."""
        if self._advanced and self.seconds_left == 0:
            raise BudgetSpentError

    def report(self, progress: StageProgress, *, advanced: bool = False) -> None:
        """Tell how far a stage is; ``advanced`` if a piece was just computed."""
        self._advanced |= advanced
        if self._on_stage is not None:
            self._on_stage(progress)


class Pieces:
    """Results of stages, one safetensors file per piece, kept until the whole is done.

    Args:
        folder: for the files, None to keep nothing. Whoever uses it must hold a lock on it.
        work: budget and progress.
    """

    def __init__(self, folder: Path | None = None, work: Work | None = None) -> None:
        self._folder, self.work = folder, work or Work()

    def each(
        self,
        stage: str,
        plan: Sequence[Sequence[int]],
        compute: Callable[[Sequence[int]], Mapping[str, npt.NDArray[Any]]],
    ) -> Iterator[tuple[Sequence[int], Arrays]]:
        """Every piece of a plan with its arrays, from its file or computed now.

        Args:
            stage: name for files and progress.
            plan: the rows of each piece. A stored piece about other rows is computed again.
            compute: rows -> arrays; must depend on nothing but the rows and the folder's key.

        Raises:
            BudgetSpentError: between two pieces.
        """
        done, total = 0, sum(map(len, plan))
        self.work.report(StageProgress(stage, done, total))
        for number, rows in enumerate(plan):
            path = self._folder / f"{stage}-{number:05}.safetensors" if self._folder else None
            arrays = self._stored(path, rows)
            new = arrays is None
            if arrays is None:
                self.work.check()
                arrays = {k: np.ascontiguousarray(v) for k, v in compute(rows).items()}
                self._store(path, rows, arrays)
            done += len(rows)
            self.work.report(StageProgress(stage, done, total), advanced=new)
            yield rows, arrays

    def clear(self) -> None:
        """Remove the files: the whole is stored elsewhere now."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _stored(self, path: Path | None, rows: Sequence[int]) -> Arrays | None:
        arrays = None if path is None else read_arrays(path)
        if arrays is None or not np.array_equal(arrays.pop(_ROWS, np.zeros(0)), rows):
            return None
        return arrays

    def _store(self, path: Path | None, rows: Sequence[int], arrays: Arrays) -> None:
        if path is not None:
            write_arrays(path, {**arrays, _ROWS: np.asarray(rows, dtype=np.int64)})


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a safetensors file atomically."""
    from safetensors.numpy import save

    write_atomically(path, save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))


def read_arrays(path: Path) -> Arrays | None:
    """The arrays of a safetensors file; None if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        return None
    except SafetensorError:  # e.g. cut short by a full disk: treated as missing
        return None
