"""history.jsonl: appended as things happen, read back even after a crash."""

import json
from pathlib import Path

import pytest

from lumos_core.errors import DataError
from lumos_core.runs.history import Event, History, read_history

EVENTS: list[Event] = [
    {"event": "evaluation", "round": 0, "split": "validation", "ndcg@20": 0.1 + 0.2},
    {"event": "round", "round": 1, "loss": 1 / 3, "failed": [{"node": "a", "reason": "\u2028\n"}]},
    {"event": "failed-round", "round": 2, "reason": "zu wenig – Antworten"},
]


def _write(path: Path) -> None:
    history = History(path)
    for event in EVENTS:
        history.add(event)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "run" / "history.jsonl"
    _write(path)
    assert read_history(path) == EVENTS
    assert len(path.read_bytes().splitlines()) == 3


def test_every_event_is_on_disk_before_anyone_is_told(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    told: list[Event] = []

    def tell(event: Event) -> None:
        assert read_history(path)[-1] == event
        told.append(event)

    history = History(path, tell)
    for event in EVENTS:
        history.add(event)
    assert told == EVENTS == history.events


def test_without_a_file_events_are_kept_in_memory(tmp_path: Path) -> None:
    history = History(None)
    history.add(EVENTS[0])
    assert history.events == EVENTS[:1]
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_an_empty_history(tmp_path: Path) -> None:
    assert read_history(tmp_path / "history.jsonl") == []
    (tmp_path / "history.jsonl").touch()
    assert read_history(tmp_path / "history.jsonl") == []


def test_a_cut_last_line_is_left_out_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    _write(path)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        assert read_history(path) == EVENTS[:2]


def test_bytes_of_a_crash_after_the_last_line_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    _write(path)
    with path.open("ab") as file:
        file.write(b"\xff\xfe\x00{")
    assert read_history(path) == EVENTS


@pytest.mark.parametrize("line", ["{", "", "[1]", "3", '{"round": 1}', "null", "\x00"])
def test_damage_before_the_last_line_is_an_error(tmp_path: Path, line: str) -> None:
    """Dropping silently what follows would make a damaged history look like a short one."""
    path = tmp_path / "history.jsonl"
    good = json.dumps(EVENTS[0])
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(DataError, match=r"history\.jsonl: line 2: found "):
        read_history(path)


def test_a_first_line_that_was_cut_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"event": "eval')
    History(path).add(EVENTS[0])
    assert read_history(path) == EVENTS[:1]


def test_a_resumed_history_is_cut_back_to_what_counts(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    _write(path)
    with path.open("a") as file:
        file.write('{"event": "rou')  # the crash
    told: list[Event] = []
    history = History(path, told.append, EVENTS[:2])
    assert read_history(path) == EVENTS[:2]
    assert told == [], "what happened before is not news"
    history.add(EVENTS[2])
    assert read_history(path) == history.events == EVENTS
