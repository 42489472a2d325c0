"""A night after another: which model is in use, what a failure changes, what is kept, and when the
series ends."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lumos_core.config import RunConfig
from lumos_core.deployment.series import Clock, Series, SeriesOptions
from lumos_core.deployment.supervision import alone
from lumos_core.deployment.timetable import Timetable
from lumos_core.errors import ConfigError, DataError, FederationError, LumosError
from lumos_core.privacy.budget import composed, private_steps
from lumos_core.runs.folder import write_config
from lumos_core.runs.history import HISTORY
from lumos_core.runs.series_file import SERIES, SeriesFile
from lumos_core.runs.summary import RunSummary

START = datetime(2026, 3, 10, 2, tzinfo=UTC)
DAILY = Timetable.parse("1d", "")


@dataclass
class World:
    """Nights that do what a test says, on a clock that goes when somebody sleeps.

    Attributes:
        results: by number of the night, NDCG@20 before and after; or an error to raise.
        failed_rounds: by number of a night in which rounds failed, how many were done in the end.
        starts: for each night, the name of the run whose model it began with.
        config: of every night.
    """

    folder: Path
    results: list[tuple[float, float] | LumosError | type[BaseException]]
    config: RunConfig = field(default_factory=lambda: RunConfig(rounds=3, catalog="c.tsv"))
    nights: int = 0
    keep: int = 7
    max_epsilon: float = 0.0
    timetable: Timetable = DAILY
    now: datetime = START
    hours: float = 1.0
    failed_rounds: dict[int, int] = field(default_factory=dict)
    begun: list[tuple[datetime, str | None]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    said: io.StringIO = field(default_factory=io.StringIO)

    def run(self, number: int, run_dir: Path, start: Path | None) -> RunSummary:
        self.begun.append((self.now, start and start.name))
        self.numbers.append(number)
        self.now += timedelta(hours=self.hours)
        result = self.results[len(self.begun) - 1]
        if isinstance(result, type):
            raise result
        if isinstance(result, ConfigError):  # before there is a run
            raise result
        write_config(run_dir, self.config, {})
        if isinstance(result, LumosError):
            self._history(run_dir, [])
            raise result
        before, after = result
        self._history(run_dir, [(0, before), (2, after)])
        best = 2 if after > before else 0
        if number in self.failed_rounds:
            return RunSummary(
                outcome="failed", reason="1 rounds failed", rounds=self.failed_rounds[number],
                best_round=best, test={},
            )  # fmt: skip
        return RunSummary(outcome="completed", reason="", rounds=3, best_round=best, test={})

    def _history(self, run_dir: Path, worths: list[tuple[int, float]]) -> None:
        events: list[dict[str, Any]] = [
            {"event": "evaluation", "split": "validation", "round": r, "ndcg@20": w}
            for r, w in worths
        ]
        if self.config.dp != "none":
            privacy = {"dp": self.config.dp, "delta": self.config.dp_delta, "nodes": {"a": 9}}
            events += [{"event": "round", "round": r, "privacy": privacy} for r in (1, 2, 3)]
        (run_dir / HISTORY).write_text("".join(json.dumps(e) + "\n" for e in events))

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def serve(self) -> SeriesFile:
        options = SeriesOptions(
            self.folder, self.timetable, self.nights, self.keep, self.max_epsilon
        )
        console = Console(file=self.said, width=200)
        clock = Clock(lambda: self.now, self.sleep)
        return Series(options, lambda run_dir: self.config, self.run, console, clock).serve()


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    def make(*results: Any, **settings: Any) -> World:
        return World(tmp_path / "series", list(results), nights=len(results), **settings)

    return make


def test_each_night_begins_with_the_model_of_the_last_good_one(
    world: Callable[..., World],
) -> None:
    four = world((0.1, 0.2), (0.2, 0.3), (0.3, 0.3), (0.3, 0.4))
    done = four.serve()
    names = [night.name for night in done.nights]
    assert [start for _, start in four.begun] == [None, names[0], names[1], names[1]]
    assert [night.promoted for night in done.nights] == [True, True, False, True]
    assert done.model == names[3]
    assert (four.folder / "current").resolve() == (four.folder / "runs" / names[3]).resolve()
    assert [(n.before, n.after) for n in done.nights] == four.results
    assert "nothing better than the model in use, which stays" in four.said.getvalue()


def test_nights_begin_on_the_timetable(world: Callable[..., World]) -> None:
    three = world((0.1, 0.2), (0.1, 0.2), (0.1, 0.2))
    three.serve()
    assert [when for when, _ in three.begun] == [START + timedelta(days=n) for n in range(3)]


def test_a_night_that_takes_longer_leaves_out_those_that_it_missed(
    world: Callable[..., World],
) -> None:
    two = world((0.1, 0.2), (0.1, 0.2), hours=49.0)
    two.serve()
    assert [when for when, _ in two.begun] == [START, START + timedelta(hours=49)]


def test_a_failed_night_changes_nothing_and_does_not_stop_the_next(
    world: Callable[..., World],
) -> None:
    lost = FederationError("the SuperLink has ended")
    three = world((0.1, 0.2), lost, (0.2, 0.3))
    done = three.serve()
    assert [night.outcome for night in done.nights] == ["completed", "failed", "completed"]
    assert done.nights[1].reason == str(lost)
    assert three.begun[2][1] == done.nights[0].name
    assert "failed (the SuperLink has ended); the model in use stays" in three.said.getvalue()


def test_rounds_that_failed_and_were_done_again_do_not_hold_back_a_nights_model(
    world: Callable[..., World],
) -> None:
    nights = world((0.1, 0.2), (0.2, 0.3), (0.3, 0.2))
    nights.failed_rounds = {2: 3, 3: 3}  # all three are done in the end
    found = nights.serve().nights
    assert [n.outcome for n in found] == ["completed", "failed", "failed"]
    assert [n.promoted for n in found] == [True, True, False]
    assert "night 2: its model is in use now" in nights.said.getvalue()
    assert "1 rounds failed" in nights.said.getvalue()


def test_a_night_that_gave_up_is_not_taken_into_use(world: Callable[..., World]) -> None:
    nights = world((0.1, 0.2), (0.2, 0.3))
    nights.failed_rounds = {2: 2}
    assert [n.promoted for n in nights.serve().nights] == [True, False]


def test_a_wrong_option_in_the_first_night_is_an_error_at_once(
    world: Callable[..., World],
) -> None:
    wrong = world(ConfigError("catalog.tsv: no such file"), (0.1, 0.2))
    with pytest.raises(ConfigError, match=r"catalog\.tsv"):
        wrong.serve()
    left = SeriesFile.read(wrong.folder / SERIES)
    assert (left.nights, left.number) == ((), 0), "it had not begun"
    wrong.nights = 1
    assert wrong.serve().number == 1


def test_the_same_error_in_a_later_night_is_only_that_nights(
    world: Callable[..., World],
) -> None:
    later = world((0.1, 0.2), DataError("catalog.tsv: line 7"), (0.2, 0.3))
    assert [night.outcome for night in later.serve().nights] == [
        "completed",
        "failed",
        "completed",
    ]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_night_that_was_interrupted_is_resumed(
    world: Callable[..., World], stop: type[BaseException]
) -> None:
    stopped = world((0.1, 0.2), stop, (0.2, 0.3), (0.3, 0.4))
    stopped.nights = 3
    with pytest.raises(stop):
        stopped.serve()
    broken = SeriesFile.read(stopped.folder / SERIES)
    assert broken.last is not None
    assert broken.last.outcome == "running"
    done = stopped.serve()
    assert done.nights[1].name == broken.last.name
    assert done.number == 3
    assert [n.outcome for n in done.nights] == ["completed"] * 3
    assert stopped.numbers == [1, 2, 2, 3]
    assert stopped.begun[1][1] == stopped.begun[2][1] == done.nights[0].name


def test_run_folders_are_rotated_but_that_of_the_model_in_use(
    world: Callable[..., World],
) -> None:
    better, same = (0.1, 0.2), (0.2, 0.2)
    five = world(better, same, same, same, same, keep=2)
    done = five.serve()
    left = sorted(p.name for p in (five.folder / "runs").iterdir())
    assert left == [done.nights[0].name, done.nights[3].name, done.nights[4].name]


def test_a_series_goes_on_with_more_nights(world: Callable[..., World]) -> None:
    two = world((0.1, 0.2), (0.2, 0.3))
    two.nights = 1
    first = two.serve()
    assert first.ended == "1 nights are done, --nights 1"
    two.nights = 2
    assert two.serve().number == 2
    assert two.begun[1][1] == first.model


def test_epsilon_adds_up_and_ends_the_series_before_its_limit(
    world: Callable[..., World],
) -> None:
    config = RunConfig(
        rounds=3,
        catalog="c.tsv",
        dp="central",
        weighting="uniform",
        dp_noise_multiplier=4.0,
        dp_clip=1.0,
    )
    allowed = composed(4.0, {1.0: 6}, config.dp_delta)
    private = world(*[(0.1, 0.2)] * 5, config=config, max_epsilon=allowed * 1.01)
    done = private.serve()
    assert done.number == 2
    assert done.epsilon == pytest.approx(allowed)
    assert done.ended.startswith("privacy: ε of all nights is")
    assert "the series has ended: privacy" in private.said.getvalue()


def test_a_failed_night_costs_epsilon_too(world: Callable[..., World]) -> None:
    config = RunConfig(rounds=3, catalog="c.tsv", dp="user", dp_noise_multiplier=4.0, dp_clip=1.0)
    done = world((0.1, 0.2), FederationError("lost"), config=config).serve()
    rate, steps = private_steps(9, config)
    assert done.epsilon == pytest.approx(composed(4.0, {rate: 6 * steps}, config.dp_delta))


def test_a_night_whose_history_is_damaged_ends_the_series(world: Callable[..., World]) -> None:
    broken = world((0.1, 0.2), (0.1, 0.2))

    def history(run_dir: Path, worths: list[tuple[int, float]]) -> None:
        (run_dir / HISTORY).write_text("not JSON\n{}\n")

    broken._history = history  # type: ignore[method-assign]
    with pytest.raises(DataError, match=HISTORY):
        broken.serve()


def test_without_differential_privacy_there_is_no_epsilon(world: Callable[..., World]) -> None:
    assert world((0.1, 0.2), max_epsilon=1.0).serve().epsilon is None


def test_two_servers_cannot_do_the_same_series(world: Callable[..., World]) -> None:
    one = world((0.1, 0.2))
    one.folder.mkdir()
    with alone(one.folder, "test"), pytest.raises(FederationError, match="--series"):
        one.serve()


def test_the_next_night_is_in_the_file_while_it_is_waited_for(
    world: Callable[..., World],
) -> None:
    two = world((0.1, 0.2), (0.1, 0.2))
    seen: list[str] = []

    def sleep(seconds: float) -> None:
        seen.append(SeriesFile.read(two.folder / SERIES).next)
        World.sleep(two, seconds)

    two.sleep = sleep  # type: ignore[method-assign]
    two.serve()
    assert set(seen) == {"2026-03-11T02:00:00+00:00"}
