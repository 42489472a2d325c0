"""How far a node is with its views, and how long it will take: for its owner, in a file.

The work is counted in tokens that the language model reads, since these cost about the same
wherever they stand: some for every item of the catalog, once, then some for every user.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from lumos_core.safe_files import JsonFile
from lumos_core.terminal.progress import duration
from lumos_core.views.build import BuildProgress
from lumos_core.views.titles.resumable import StageProgress

log = logging.getLogger(__name__)

FILE = "views-progress.json"
STEP = 5  # per cent: what the server is told is no exact count
STAGE_TOKENS = {"titles": 15, "priors": 15, "substitutes": 55}
"""Tokens an item that the stages of the catalog read."""
USER_TOKENS = 70
"""Tokens that the views of a user read."""
_WRITE_SECONDS = 1.0
_LOG_SECONDS = 10.0
_FOUND_SECONDS = 0.2  # between two reports, below which nothing was computed but read


class ViewProgress(JsonFile):
    """What stands in the file. Times are seconds.

    Attributes:
        stage: what is being done: a stage of the catalog, or "users".
        done, total: items or users of that stage.
        users_done, users: those whose views exist, and those who are to have them.
        percent: of the whole work, 0 … 100.
        seconds_left: estimated; None while there is nothing to estimate it by.
        items: of the catalog, if this run had to prepare it; 0 if it lay in the cache.
        spent: used for views by this run so far, what the owner's limit is held against.
        time: seconds since 1970, when this was written.
        run: of which run.
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
        """What a node has written last; None if nothing, or if the file is damaged.

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
        what = "users" if self.stage == "users" else f"catalog: {self.stage}"
        left = "" if self.seconds_left is None else f", about {duration(self.seconds_left)} left"
        return f"{what} {self.done} of {self.total}{left}"


class Meter:
    """Takes the reports of a build, keeps the file up to date and writes a log line now and then.

    Args:
        state: the node's state folder.
        run: name of the run, see :attr:`ViewProgress.run`.
        stages: the catalog's stages that may be needed, in order: those of ``STAGE_TOKENS``.
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
        self._at_work = False  # the last report was about work, not about loading the model
        self._pace = (0.0, 0.0)  # work and seconds of what was done, not found
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
        """How far it is."""
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
        """Write the last state, whenever the one before was written."""
        users = self._users
        self._last_write = -float("inf")
        self._tell("users", users.stored + users.generated, users.total)

    def _work(self) -> tuple[float, float]:
        """Tokens read, and tokens in all. The catalog counts only if this run has met a stage of
        it: what lay in the cache before costs nothing."""
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
        """Never less than an earlier process of this run has said."""
        if finished >= whole:
            return 100.0
        return max(round(100 * finished / whole, 1), min(self._before.percent, 99.9))

    def _seconds_left(self, finished: float, whole: float) -> float | None:
        if finished >= whole:
            return 0.0
        work, seconds = self._pace
        return (whole - finished) / work * seconds if work > 0 else None

    def _keep_pace(self, stage: str) -> None:
        """Loading the model, and what an earlier process has left, must not spoil the estimate."""
        (before, then), finished, now = self._seen, self._work()[0], self._clock()
        if finished > before and now - then > _FOUND_SECONDS and self._at_work:
            work, seconds = self._pace
            self._pace = (work + finished - before, seconds + now - then)
        self._seen, self._at_work = (finished, now), bool(stage)

    def _tell(self, stage: str, done: int, total: int) -> None:
        now = self._clock()
        self._keep_pace(stage)
        if now - self._last_write < _WRITE_SECONDS and done < total:
            return
        progress = self.now(stage, done, total)
        self._last_write = now
        try:
            progress.write(self._state / FILE, 0o600)
        except OSError as error:  # views that cannot be stored will say so themselves
            log.warning("%s cannot be written (%s)", FILE, type(error).__name__)
        if now - self._last_log >= _LOG_SECONDS or (stage and done >= total):
            self._last_log = now
            log.info("views: %s", progress.line())
