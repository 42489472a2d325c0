"""A node's progress with its views and the time left, in a file for the node's owner.

The work is counted in tokens that the language model reads, since every token costs about the
same: some for every item of the catalog, once, then some for every user.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from lumos_core.safe_files import JsonFile
from lumos_core.terminal.progress import duration
from lumos_core.views.build import BuildProgress
from lumos_core.views.titles.resumable import WAITING, StageProgress

log = logging.getLogger(__name__)

FILE = "views-progress.json"
STEP = 5  # per cent: the server must not learn an exact count
STAGE_TOKENS = {"titles": 15, "priors": 15, "substitutes": 55}
"""Tokens per item that the model reads in each stage of the catalog's preparation."""
USER_TOKENS = 70
"""Tokens that the model reads for the views of one user."""
_WAITING_LINE = "catalog: waiting for another process of this computer that prepares it"
_WRITE_SECONDS = 1.0
_LOG_SECONDS = 10.0
_FOUND_SECONDS = 0.2  # between two reports; if it was less, results were read, not computed


class ViewProgress(JsonFile):
    """The content of the file. Times are in seconds.

    Attributes:
        stage: what is being done: a stage of the catalog's preparation, "waiting" for another
            process that prepares the same catalog, or "users".
        done, total: items or users of that stage.
        users_done, users: users whose views exist, and all users who are to get views.
        percent: of the whole work, 0 … 100.
        seconds_left: an estimate; None while there is no basis for one.
        items: of the catalog, if this run had to prepare it; 0 if it was in the cache.
        spent: time that this run has used for views so far; the owner's limit applies to it.
        time: when this was written, in seconds since 1970.
        run: name of the run.
    """

    stage: str = ""
    done: int = 0
    total: int = 0
    users_done: int = 0
    users: int = 0
    items: int = 0
    percent: float = 0.0
    seconds_left: float | None = None
    spent: float = 0.0
    time: float = 0.0
    run: str = ""

    @classmethod
    def of_node(cls, state: Path) -> Self | None:
        """What a node wrote last; None if there is no file, or it is damaged.

        Args:
            state: the node's state folder.

        Raises:
            NewerFileError: a newer LUMOS wrote it.
        """
        return cls.read_if_sound(state / FILE)

    def line(self) -> str:
        """In words, for terminals and logs."""
        if not self.stage:
            return "loading the language model"
        if self.stage == WAITING:
            return _WAITING_LINE
        what = "users" if self.stage == "users" else f"catalog: {self.stage}"
        left = "" if self.seconds_left is None else f", about {duration(self.seconds_left)} left"
        return f"{what} {self.done} of {self.total}{left}"


class Meter:
    """Takes the reports of a build, keeps the file up to date and writes a log line now and then.

    Args:
        state: the node's state folder.
        run: name of the run, see :attr:`ViewProgress.run`.
        stages: stages of the catalog's preparation that may be needed, in order, with their
            tokens per item.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        state: Path,
        run: str,
        stages: Mapping[str, int] = STAGE_TOKENS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state, self._clock = state, clock
        self._begun = clock()
        before = ViewProgress.of_node(state)
        self._before = before if before is not None and before.run == run else ViewProgress(run=run)
        self._plan = dict(stages)
        self._catalog = 0
        self._stages: dict[str, StageProgress] = {}
        self._users = BuildProgress(0, 0, 0, 0.0)
        self._seen = (0.0, self._begun)  # work done and time, at the last report
        self._at_work = False  # the last report was about work, not about loading or waiting
        self._pace = (0.0, 0.0)  # work and seconds of what was computed, not read from a store
        self._last_write = self._last_log = -float("inf")

    def expect(self, items: int, judges: str) -> None:
        """Say how large the catalog is, and what the model is asked about it (``llm-judges``)."""
        self._catalog = items
        if judges != "all":
            self._plan.pop("substitutes", None)

    @property
    def spent(self) -> float:
        """Seconds that this run has used for views, this process included."""
        return self._before.spent + self._clock() - self._begun

    @property
    def missing(self) -> int:
        """Users whose views are still to be written."""
        return self._users.missing

    def on_stage(self, progress: StageProgress) -> None:
        """Take a report of the catalog's preparation."""
        if progress.stage == WAITING and not progress.done:
            self._tell(WAITING, 0, 1)
        if progress.stage not in self._plan:
            return
        self._stages[progress.stage] = progress
        self._tell(progress.stage, progress.done, progress.total)

    def on_users(self, progress: BuildProgress) -> None:
        """Take a report of the users' views."""
        self._users = progress
        begun = progress.generated or not progress.missing
        self._tell("users" if begun else "", progress.stored + progress.generated, progress.total)

    def now(self, stage: str = "", done: int = 0, total: int = 0) -> ViewProgress:
        """The progress at this moment."""
        finished, whole = self._work()
        return ViewProgress(
            stage=stage,
            done=done,
            total=total,
            users_done=self._users.stored + self._users.generated,
            users=self._users.total,
            items=self._items(),
            percent=self._percent(finished, whole),
            seconds_left=self._seconds_left(finished, whole),
            spent=round(self.spent, 1),
            time=time.time(),
            run=self._before.run,
        )

    def for_server(self) -> tuple[int, float]:
        """Per cent in steps of ``STEP`` and seconds left, 0 where unknown."""
        found = self.now()
        if not self.missing:
            return 100, 0.0
        percent = min(int(found.percent // STEP) * STEP, 100 - STEP)
        return percent, round(found.seconds_left or 0.0)

    def close(self) -> None:
        """Write the final state, however recently the file was written."""
        users = self._users
        self._last_write = -float("inf")
        self._tell("users", users.stored + users.generated, users.total)

    def _work(self) -> tuple[float, float]:
        """Tokens read, and tokens in all. The catalog counts only if this run has prepared a stage
        of it: what was in the cache costs nothing."""
        users = self._users
        finished = float(USER_TOKENS * (users.stored + users.generated))
        whole = float(USER_TOKENS * users.total)
        items = self._items()
        for name, tokens in self._plan.items():
            seen = self._stages.get(name)
            share = seen.done / seen.total if seen and seen.total else 0.0
            finished += tokens * items * (1.0 if users.generated else share)
            whole += tokens * items
        return finished, whole

    def _items(self) -> int:
        return self._catalog if self._stages else self._before.items

    def _percent(self, finished: float, whole: float) -> float:
        """Never less than an earlier process of this run has reported."""
        if finished >= whole:
            return 100.0
        return max(round(100 * finished / whole, 1), min(self._before.percent, 99.9))

    def _seconds_left(self, finished: float, whole: float) -> float | None:
        if finished >= whole:
            return 0.0
        work, seconds = self._pace
        return (whole - finished) / work * seconds if work > 0 else None

    def _keep_pace(self, stage: str) -> None:
        """Update the pace. Loading the model, waiting for another process and reading stored
        results do not count: they would distort the estimate."""
        (before, then), finished, now = self._seen, self._work()[0], self._clock()
        if finished > before and now - then > _FOUND_SECONDS and self._at_work:
            work, seconds = self._pace
            self._pace = (work + finished - before, seconds + now - then)
        self._seen, self._at_work = (finished, now), stage not in ("", WAITING)

    def _tell(self, stage: str, done: int, total: int) -> None:
        now = self._clock()
        self._keep_pace(stage)
        if now - self._last_write < _WRITE_SECONDS and done < total:
            return
        progress = self.now(stage, done, total)
        self._last_write = now
        try:
            progress.write(self._state / FILE, 0o600)
        except OSError as error:  # if views cannot be stored either, the store raises an error
            log.warning("%s cannot be written (%s)", FILE, type(error).__name__)
        if now - self._last_log >= _LOG_SECONDS or (stage and done >= total):
            self._last_log = now
            log.info("views: %s", progress.line())
