"""A series of runs on a timetable: every night a run, which begins with the model in use.

The model of a night is taken into use if it is better than the one that the night began with, on
the validation targets of that night. So a night that fails, or that brings nothing, changes
nothing. What is kept stands in ``series.json``, written before and after each night: a server that
dies resumes the night that it was in, and one that was off when a night was due begins it late.

With differential privacy, ε adds up over the nights. The series ends before a night that could
exceed its limit.
"""

import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lumos_core.config import RunConfig
from lumos_core.deployment.supervision import alone, say
from lumos_core.deployment.timetable import Timetable
from lumos_core.errors import FederationError, LumosError
from lumos_core.privacy.budget import Budget, composed_runs
from lumos_core.processes.children import ending_on_signals
from lumos_core.runs.folder import read_config
from lumos_core.runs.history import HISTORY, read_history, value_of
from lumos_core.runs.series_file import (
    CURRENT,
    RUNS,
    SERIES,
    Night,
    NightCost,
    SeriesFile,
    now_text,
)
from lumos_core.runs.summary import RunSummary

_LOOK_SECONDS = 20.0  # while waiting, so that a clock that is set is noticed
_RUNNING = "another server runs this series; end it, or choose another folder with --series"

RunNight = Callable[[int, Path, Path | None], RunSummary]
"""Does one night: its number from 1 on, its run folder, and the run whose model it begins with
(None: from the start)."""
ConfigOfNight = Callable[[Path], RunConfig]
"""The configuration that the run in a folder will have."""


@dataclass(frozen=True)
class SeriesOptions:
    """What a series is.

    Attributes:
        folder: of the series.
        timetable: when its nights begin.
        nights: how many there are; 0 for no end.
        keep: run folders that are kept beside that of the model in use.
        max_epsilon: of all nights together; 0 for no limit.
    """

    folder: Path
    timetable: Timetable
    nights: int = 0
    keep: int = 7
    max_epsilon: float = 0.0


@dataclass(frozen=True)
class Clock:
    """The time; replaced in tests."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep


class Series:
    """A series in its folder.

    Args:
        options: what it is.
        config: the configuration of a night's run.
        run: does a night.
        console: says what happens.
        clock: the time.
    """

    def __init__(
        self,
        options: SeriesOptions,
        config: ConfigOfNight,
        run: RunNight,
        console: Console,
        clock: Clock | None = None,
    ) -> None:
        self._options, self._config, self._run, self._console = options, config, run, console
        self._clock = clock or Clock()
        self._path = options.folder / SERIES
        self.file = SeriesFile()

    def serve(self) -> SeriesFile:
        """Do nights until there are no more.

        Returns:
            The series as it ended; ``ended`` says why.

        Raises:
            LumosError: of the first night, if none has had a result yet: most likely a wrong
                option, which waiting does not repair.
            DataError: ``series.json`` is damaged.
            FederationError: another process does this series.
        """
        folder = self._options.folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with ExitStack() as stack:
            stack.enter_context(alone(folder, _RUNNING))
            stack.enter_context(ending_on_signals())
            self.file = SeriesFile.read_if_there(self._path) or SeriesFile()
            self._write(timetable=str(self._options.timetable), ended="")
            while not self.file.ended:
                self._step()
        say(self._console, escape(f"the series has ended: {self.file.ended}"))
        return self.file

    def _step(self) -> None:
        last = self.file.last
        if last is not None and last.outcome == "running":
            say(self._console, f"night {self.file.number}: resumed, begun {last.begun}")
            self._do(last)
        elif why := self._over():
            self._write(ended=why, next="")
        else:
            begun = None if last is None else datetime.fromisoformat(last.begun)
            due = self._options.timetable.next_after(begun, self._clock.now())
            self._wait_until(due)
            self._do(self._new_night())

    def _over(self) -> str:
        """Why there is no further night; empty if there is one."""
        options = self._options
        if options.nights and self.file.number >= options.nights:
            return f"{self.file.number} nights are done, --nights {options.nights}"
        if not options.max_epsilon:
            return ""
        expected = self._epsilon_after_next()
        if expected <= options.max_epsilon:
            return ""
        return (
            f"privacy: ε of all nights is {self.file.epsilon or 0:.3g}, the next night could make "
            f"it {expected:.3g}, --series-epsilon {options.max_epsilon:g}; the model in use stays"
        )

    def _wait_until(self, due: datetime) -> None:
        now = self._clock.now()
        if due <= now:
            return
        self._write(next=now_text(due))
        say(self._console, f"the next night begins at {due.astimezone():%Y-%m-%d %H:%M:%S %Z}")
        while (left := (due - self._clock.now()) / timedelta(seconds=1)) > 0:
            self._clock.sleep(min(left, _LOOK_SECONDS))

    def _new_night(self) -> Night:
        now = self._clock.now()
        stem = f"{now.astimezone(UTC):%Y%m%d-%H%M%S}"
        taken = {night.name for night in self.file.nights}
        names = (stem + suffix for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
        name = next(n for n in names if n not in taken and not self._folder_of(n).exists())
        return Night(name=name, begun=now_text(now))

    def _do(self, night: Night) -> None:
        """Do a night from its beginning, or from where it was left."""
        self.file = self.file.with_night(night)
        self._write(next="")
        run_dir = self._folder_of(night.name)
        start = self._folder_of(self.file.model) if self.file.model else None
        try:
            summary = self._run(self.file.number, run_dir, start)
        except LumosError as error:
            if not self.file.completed and not isinstance(error, FederationError):
                if not (run_dir / HISTORY).exists():  # a wrong option: the night has not begun
                    self.file = self.file.without_last()
                    self._write()
                raise
            summary = RunSummary(outcome="failed", reason=str(error))
        self._end(night, run_dir, summary)

    def _end(self, night: Night, run_dir: Path, summary: RunSummary) -> None:
        before, after = _worth(run_dir)
        completed = summary.outcome == "completed" or self._has_all_rounds(run_dir, summary)
        measured = before is not None and summary.best_round > 0
        better = completed and (measured or not self.file.model)
        night = night.model_copy(
            update={
                "ended": now_text(self._clock.now()),
                "outcome": summary.outcome,
                "reason": summary.reason,
                "rounds": summary.rounds,
                "best_round": summary.best_round,
                "before": before,
                "after": after,
                "promoted": better,
                "epsilon": summary.epsilon,
            }
        )
        costs = _with(self.file.costs, _cost(run_dir))
        self.file = self.file.with_night(night)
        if better:
            _link(self._options.folder / CURRENT, Path(RUNS) / night.name)
            self.file = self.file.model_copy(update={"model": night.name})
        self._write(costs=costs, epsilon=self._epsilon(costs))
        self._tell(night)
        self._remove_old()

    @staticmethod
    def _has_all_rounds(run_dir: Path, summary: RunSummary) -> bool:
        """Whether a failed night has a whole model: rounds failed in it and were done again."""
        config = read_config(run_dir)
        return config is not None and summary.rounds >= config.rounds

    def _tell(self, night: Night) -> None:
        head = f"night {self.file.number}: "
        if night.outcome == "failed" and not night.promoted:
            kept = "the model in use stays" if self.file.model else "there is no model yet"
            say(self._console, f"[yellow]{head}failed ({escape(night.reason)}); {kept}[/]")
        elif not night.promoted:
            say(self._console, f"{head}nothing better than the model in use, which stays")
        else:
            after = "" if night.after is None else f", validation NDCG@20 {night.after:.4f}"
            was = "" if night.before is None else f" (before the night {night.before:.4f})"
            trouble = f"; {escape(night.reason)}" if night.outcome == "failed" else ""
            say(self._console, f"{head}its model is in use now{after}{was}{trouble}")

    def _remove_old(self) -> None:
        """Delete the run folders of all but the latest nights and of the model in use."""
        folder = self._options.folder / RUNS
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        for name in names[: -self._options.keep or len(names)]:
            if name != self.file.model:
                shutil.rmtree(folder / name)

    # ------------------------------------------------------------ privacy
    def _epsilon(
        self, costs: tuple[NightCost, ...], more: Mapping[str, Counter[float]] | None = None
    ) -> float | None:
        """ε of the node that has spent most; None without differential privacy or noise."""
        nodes = {node for cost in costs for node in cost.steps} | set(more or {})
        if not nodes:
            return None
        config = self._config(self._folder_of("next"))
        found = max(self._epsilon_of(node, costs, config, more or {}) for node in sorted(nodes))
        return found if math.isfinite(found) else None

    @staticmethod
    def _epsilon_of(
        node: str,
        costs: tuple[NightCost, ...],
        config: RunConfig,
        more: Mapping[str, Counter[float]],
    ) -> float:
        runs = [
            (cost.noise, {float(rate): n for rate, n in cost.steps.get(node, {}).items()})
            for cost in costs
        ]
        return composed_runs(
            [*runs, (config.dp_noise_multiplier, more.get(node, {}))], config.dp_delta
        )

    def _epsilon_after_next(self) -> float:
        """What ε could be after one more night in which every node trains in every round."""
        config = self._config(self._folder_of("next"))
        if config.dp == "none":
            return 0.0
        last = self.file.last
        events = [] if last is None else read_history(self._folder_of(last.name) / HISTORY)
        budget = Budget.of(config, events)
        names = budget.users or {"": 1}
        budget.trained.clear()
        more = {name: budget.steps_of(name, config.rounds) for name in names}
        found = self._epsilon(self.file.costs, more)
        return math.inf if found is None else found

    # ------------------------------------------------------------ files
    def _folder_of(self, name: str) -> Path:
        return self._options.folder / RUNS / name

    def _write(self, **changes: object) -> None:
        self.file = self.file.model_copy(update=changes)
        self.file.write(self._path)


def _worth(run_dir: Path) -> tuple[float | None, float | None]:
    """NDCG@20 of the model that a run began with and of its best one, on the validation targets."""
    found = {
        event["round"]: value_of(event)
        for event in read_history(run_dir / HISTORY)
        if event["event"] == "evaluation" and event["split"] == "validation"
    }
    return found.get(0), max(found.values(), default=None)


def _cost(run_dir: Path) -> NightCost | None:
    """What a run has cost; None without differential privacy, or if it ended before it began.

    Raises:
        LumosError: its files are damaged. A series whose ε is not known must not go on.
    """
    config = read_config(run_dir)
    if config is None or config.dp == "none":
        return None
    budget = Budget.of(config, read_history(run_dir / HISTORY))
    steps = {
        node: {str(rate): n for rate, n in budget.steps_of(node).items()} for node in budget.trained
    }
    return NightCost(noise=config.dp_noise_multiplier, steps=steps)


def _with(costs: tuple[NightCost, ...], more: NightCost | None) -> tuple[NightCost, ...]:
    """Costs with those of one more night; nights of the same noise are one entry."""
    if more is None:
        return costs
    same = [cost for cost in costs if cost.noise == more.noise]
    total: dict[str, Counter[str]] = {}
    for cost in (*same, more):
        for node, steps in cost.steps.items():
            total.setdefault(node, Counter()).update(steps)
    joined = NightCost(noise=more.noise, steps={node: dict(n) for node, n in total.items()})
    return (*(cost for cost in costs if cost.noise != more.noise), joined)


def _link(path: Path, target: Path) -> None:
    """Make ``path`` a link to ``target``; whoever reads it sees the old one or the new one."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    os.replace(fresh, path)
