"""How far views are: shares by tokens, time left, what the owner sees and what the server hears."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lumos_core.errors import NewerFileError
from lumos_core.views import meter as meters
from lumos_core.views.build import BuildProgress
from lumos_core.views.meter import FILE, Meter, ViewProgress
from lumos_core.views.titles.resumable import WAITING, StageProgress

STAGES = {"titles": 10, "priors": 30}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def hundred_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "USER_TOKENS", 100)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(tmp_path: Path, clock: Clock) -> Callable[[str], Meter]:
    return lambda run="r": Meter(tmp_path, run, STAGES, clock)


def test_work_is_shared_out_by_tokens(
    meter: Callable[..., Meter], tmp_path: Path, clock: Clock
) -> None:
    """50 items at 10 and 30 tokens, 20 users at 100: 4,000 tokens."""
    found = meter()
    found.expect(50, "all")
    found.on_users(BuildProgress(0, 0, 20, 0.0))
    first = ViewProgress.of_node(tmp_path)
    assert first is not None
    assert (first.users_done, first.users, first.line()) == (0, 20, "loading the language model")
    for done in (0, 50):
        found.on_stage(StageProgress("titles", done, 50))
        clock.now += 10
    assert found.now().percent == 12.5
    assert found.now().seconds_left == pytest.approx(10 / 500 * 3500)
    found.on_stage(StageProgress("priors", 25, 50))
    assert found.now().percent == pytest.approx(31.2, abs=0.1)
    found.on_users(BuildProgress(0, 5, 20, 30.0))
    assert found.now().percent == pytest.approx(100 * 2500 / 4000)
    assert found.for_server()[0] == 60, "the server is told steps of five"
    found.on_users(BuildProgress(0, 20, 20, 60.0))
    assert found.for_server() == (100, 0.0)
    told = ViewProgress.of_node(tmp_path)
    assert told is not None
    assert (told.users_done, told.line()) == (20, "users 20 of 20, about 0 s left")


def test_what_lies_in_the_cache_costs_nothing(meter: Callable[..., Meter]) -> None:
    found = meter()
    found.on_users(BuildProgress(10, 0, 20, 0.0))
    assert found.now().percent == 50
    found.on_stage(StageProgress("unheard of", 1, 9))
    assert found.now().percent == 50


def test_waiting_for_another_process_is_told_and_is_no_work(
    meter: Callable[..., Meter], tmp_path: Path, clock: Clock
) -> None:
    found = meter()
    found.expect(50, "all")
    found.on_users(BuildProgress(0, 0, 20, 0.0))
    clock.now += 10
    found.on_stage(StageProgress(WAITING, 0, 1))
    told = ViewProgress.of_node(tmp_path)
    assert told is not None
    assert "waiting for another process" in told.line()
    clock.now += 300
    found.on_stage(StageProgress(WAITING, 1, 1))
    found.on_users(BuildProgress(0, 5, 20, 30.0))
    assert found.now().seconds_left is None, "five minutes of waiting say nothing about the pace"


def test_all_but_the_last_user_is_not_a_hundred(meter: Callable[..., Meter]) -> None:
    found = meter()
    found.on_users(BuildProgress(0, 999, 1000, 1.0))
    assert found.for_server()[0] == 95


def test_time_adds_up_over_processes_of_a_run(
    meter: Callable[..., Meter], clock: Clock, tmp_path: Path
) -> None:
    first = meter()
    first.on_users(BuildProgress(0, 0, 4, 0.0))
    clock.now += 30
    first.close()
    second = meter()
    clock.now += 12
    assert second.spent == pytest.approx(42)
    assert meter("another run").spent == 0
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0, "for the owner alone"


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, meter: Callable[..., Meter]) -> None:
    (tmp_path / FILE).write_text("{")
    assert ViewProgress.of_node(tmp_path) is None
    assert meter().spent == 0


def test_a_file_of_before_there_were_versions_is_read(
    tmp_path: Path, meter: Callable[..., Meter]
) -> None:
    (tmp_path / FILE).write_text(
        '{"stage":"users","done":1,"total":3,"users_done":1,"users":3,"items":7,"percent":31.2,'
        '"seconds_left":null,"spent":2.5,"time":1.5,"run":"r"}'
    )
    assert ViewProgress.of_node(tmp_path) == ViewProgress(
        stage="users", done=1, total=3, users_done=1, users=3, items=7, percent=31.2,
        seconds_left=None, spent=2.5, time=1.5, run="r",
    )  # fmt: skip
    assert meter().spent == 2.5


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path, meter: Callable[..., Meter]) -> None:
    (tmp_path / FILE).write_text('{"schema_version": 2}')
    with pytest.raises(NewerFileError, match=r"views-progress\.json: has schema version 2"):
        meter()


def test_a_disk_that_is_full_does_not_end_the_work(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lumos_core.safe_files.write_atomically", full)
    Meter(tmp_path, "r", STAGES, clock).on_users(BuildProgress(0, 1, 2, 0.0))


def test_requests_of_a_stage_are_not_items(meter: Callable[..., Meter], clock: Clock) -> None:
    """Priors come in packs; substitutes only where the model judges them."""
    found = Meter(Path("/nonexistent"), "r", {"priors": 30, "substitutes": 50}, clock)
    found.expect(1000, "future")
    found.on_users(BuildProgress(0, 0, 100, 0.0))
    found.on_stage(StageProgress("priors", 0, 40))
    clock.now += 10
    found.on_stage(StageProgress("priors", 20, 40))
    assert found.now().percent == pytest.approx(100 * 15_000 / 40_000)
    assert found.now().seconds_left == pytest.approx(10 / 15_000 * 25_000)
