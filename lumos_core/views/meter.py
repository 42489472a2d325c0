"""How far a node is with its views, and how long it will take: for its owner, in a file.

The work is counted in tokens that the language model reads, since these cost about the same
wherever they stand: some for every item of the catalog, once, then some for every user.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from lumos_core.files import write_atomically
from lumos_core.progress import duration
from lumos_core.views.build import Progress
from lumos_core.views.pieces import StageProgress

log = logging.getLogger(__name__)

FILE = "views-progress.json"
STEP = 5  # per cent: what the server is told is no exact count
STAGE_TOKENS = {"titles": 15, "priors": 15, "substitutes": 55}
"""Tokens an item that the stages of the catalog read."""
USER_TOKENS = 100
"""Tokens that the views of a user read."""
_WRITE_SECONDS = 1.0
_LOG_SECONDS = 10.0


class ViewProgress(BaseModel):
    """What stands in the file. Times are seconds.

    Attributes:
        stage: what is being done: a stage of the catalog, or "users".
        done, total: items or users of that stage.
        users_done, users: those whose views exist, and those who are to have them.
        percent: of the whole work, 0 … 100.
        seconds_left: estimated; None while there is nothing to estimate it by.
        spent: used for views by this run so far, what the owner's limit is held against.
        time: seconds since 1970, when this was written.
        run: of which run.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    stage: str = ""
    done: int = 0
    total: int = 0
    users_done: int = 0
    users: int = 0
    percent: float = 0.0
    seconds_left: float | None = None
    spent: float = 0.0
    time: float = 0.0
    run: str = ""

    @classmethod
    def read(cls, state: Path) -> Self | None:
        """What a node has written last; None if nothing, or if the file is damaged."""
        try:
            return cls.model_validate_json((state / FILE).read_bytes())
        except (OSError, ValidationError):
            return None

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
        before = ViewProgress.read(state)
        self._spent = before.spent if before is not None and before.run == run else 0.0
        self._run = run
        self._plan = dict(stages)
        self._stages: dict[str, StageProgress] = {}
        self._users = Progress(0, 0, 0, 0.0)
        self._first: tuple[float, float] | None = None  # work done and time, at the first report
        self._last_write = self._last_log = -float("inf")

    @property
    def spent(self) -> float:
        """Seconds that this run has used for views, this process included."""
        return self._spent + self._clock() - self._begun

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

    def on_users(self, progress: Progress) -> None:
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
            percent=round(100 * finished / whole, 1) if whole else 100.0,
            seconds_left=self._seconds_left(finished, whole),
            spent=round(self.spent, 1),
            time=time.time(),
            run=self._run,
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
        """Tokens read, and tokens in all. Stages count only once this process has met one: what
        lies in the cache costs nothing."""
        users = self._users
        finished = float(USER_TOKENS * (users.stored + users.generated))
        whole = float(USER_TOKENS * users.total)
        items = max((stage.total for stage in self._stages.values()), default=0)
        for name, tokens in self._plan.items() if items else ():
            seen = self._stages.get(name)
            share = seen.done / seen.total if seen and seen.total else 0.0
            finished += tokens * items * (1.0 if users.generated else share)
            whole += tokens * items
        return finished, whole

    def _seconds_left(self, finished: float, whole: float) -> float | None:
        if finished >= whole:
            return 0.0
        if self._first is None:
            return None
        done, since = finished - self._first[0], self._clock() - self._first[1]
        return (whole - finished) / done * since if done > 0 else None

    def _tell(self, stage: str, done: int, total: int) -> None:
        now = self._clock()
        if self._first is None and stage:  # loading the model must not spoil the estimate
            self._first = (self._work()[0], now)
        if now - self._last_write < _WRITE_SECONDS and done < total:
            return
        progress = self.now(stage, done, total)
        self._last_write = now
        try:
            write_atomically(self._state / FILE, progress.model_dump_json().encode(), 0o600)
        except OSError as error:  # views that cannot be stored will say so themselves
            log.warning("%s cannot be written (%s)", FILE, type(error).__name__)
        if now - self._last_log >= _LOG_SECONDS or (stage and done >= total):
            self._last_log = now
            log.info("views: %s", progress.line())
