"""How a run is followed: what is reported before it ends, and when it counts as lost."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lumos_core.deployment import follow as module
from lumos_core.deployment.follow import RunLostError, Tail, Watch, follow
from lumos_core.errors import FederationError
from lumos_core.runs.summary import RunSummary

SUMMARY = RunSummary(outcome="failed", reason="too few nodes")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLLOW_SECONDS", 0.001)
    monkeypatch.setattr(module, "SUMMARY_SECONDS", 0.05)


def process(exit_code: int | None = None) -> Any:
    return SimpleNamespace(
        name="server", exit_code=exit_code, log=Path("server.log"), last_lines=lambda n: f"last {n}"
    )


def write(run_dir: Path, *events: str, summary: bool = True) -> None:
    with (run_dir / "history.jsonl").open("a") as file:
        file.writelines(json.dumps({"event": name}) + "\n" for name in events)
    if summary:
        SUMMARY.write(run_dir / "summary.json")


class Script(Watch):
    """Does one thing a look, and notes what is called."""

    def __init__(self, *steps: Any) -> None:
        super().__init__(lambda event: self.calls.append(event["event"]))
        self.calls: list[str] = []
        self._steps = iter(steps)

    def before(self) -> None:
        self.calls.append("before")
        next(self._steps)()

    def without_summary(self) -> None:
        self.calls.append("without")


def followed(run_dir: Path, watch: Watch, run: Any) -> dict[str, Any]:
    return follow(run_dir, run, Tail(run_dir / "history.jsonl", watch.on_event), watch)


def nothing() -> None:
    pass


def test_every_event_is_told_before_the_summary_is_returned(tmp_path: Path) -> None:
    watch = Script(
        lambda: write(tmp_path, "a", summary=False), nothing, lambda: write(tmp_path, "b", "c")
    )
    assert followed(tmp_path, watch, process()) == SUMMARY
    assert watch.calls == ["before", "a", "without", "before", "without", "before", "b", "c"]


def test_a_run_that_ended_without_a_summary_is_lost_after_a_while(tmp_path: Path) -> None:
    with pytest.raises(RunLostError, match=r"without a result; the end of server.log:\nlast 25"):
        followed(tmp_path, Watch(print), process(exit_code=0))


def test_a_summary_in_time_counts(tmp_path: Path) -> None:
    watch = Script(nothing, nothing, lambda: write(tmp_path))
    assert followed(tmp_path, watch, process(exit_code=1)) == SUMMARY


def test_the_while_begins_anew_when_the_run_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.02 * next(clock))
    gone = iter([True, True, False] * 20 + [True] * 10)
    looks: list[bool] = []

    class Flickering(Watch):
        def has_ended(self, run: Any) -> bool:
            looks.append(next(gone))
            return looks[-1]

    with pytest.raises(RunLostError):
        followed(tmp_path, Flickering(print), process())
    assert len(looks) > 60


def test_what_the_watch_says_first_counts_more_than_a_summary(tmp_path: Path) -> None:
    def die() -> None:
        raise FederationError("the SuperLink is gone")

    write(tmp_path)
    with pytest.raises(FederationError, match="SuperLink is gone"):
        followed(tmp_path, Script(die), process())


def test_a_summary_counts_more_than_what_the_watch_says_afterwards(tmp_path: Path) -> None:
    class Late(Watch):
        def without_summary(self) -> None:
            raise FederationError("every node is gone")

    write(tmp_path)
    assert followed(tmp_path, Late(print), process()) == SUMMARY
    (tmp_path / "summary.json").unlink()
    with pytest.raises(FederationError, match="every node"):
        followed(tmp_path, Late(print), process())
