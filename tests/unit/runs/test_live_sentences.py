from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lumos_core.runs.attendance import Attendance
from lumos_core.runs.live_sentences import SHOWN, findings_now, late
from lumos_core.runs.status import NodeStatus, RunStatus

NOW = datetime(2026, 1, 1, 3, 0, tzinfo=UTC)
STATUS = RunStatus(
    run="run", state="running", reason="", method="lumos", round=4, rounds=20, last_event="",
    best_round=4, users=30, evaluations=[], test={}, views="", preparing=[],
    nodes=[NodeStatus(f"node-{n}", 4, "2026-01-01T02:59:00", 4, 0) for n in range(3)],
    failures=[], certificates={}, expiring=[],
)  # fmt: skip


def waiting(silent: float, left: float, *names: str, **answered: float) -> Attendance:
    return Attendance(
        round=5,
        asked=(NOW - timedelta(seconds=silent)).isoformat(),
        closes=(NOW + timedelta(seconds=left)).isoformat(),
        waiting=list(names),
        answered={name.replace("_", "-"): seconds for name, seconds in answered.items()},
    )


def sentences(status: RunStatus, attendance: Attendance) -> list[str]:
    return [finding.what for finding in findings_now(status, attendance, NOW)]


def test_a_late_node_is_named_in_one_sentence() -> None:
    attendance = waiting(40, 20, "node-2", node_0=4.0, node_1=5.0)
    assert sentences(STATUS, attendance) == [
        "node-2 has been silent for 40 s; the round closes in 20 s."
    ]
    [found] = findings_now(STATUS, attendance, NOW)
    assert "round-timeout" in found.advice
    assert found.tone == "attention"


def test_a_refused_node_is_named_with_its_reason_and_what_to_do() -> None:
    reason = "its catalog is 'aaaaaaaa'…, the run's is 'bbbbbbbb'…"
    [found] = findings_now(STATUS, Attendance(refused={"node-3": reason}), NOW)
    assert found.what == f"node-3 was refused: {reason}"  # it ends with a mark already
    assert "lumos prepare" in found.advice


@pytest.mark.parametrize(
    ("silent", "left", "answered", "expected"),
    [
        (40, 560, {"node_0": 4.0}, True),  # ten times as long as the other
        (9, 591, {"node_0": 1.0}, False),  # nobody is late within ten seconds
        (40, 560, {"node_0": 30.0}, False),  # as long as others need
        (61, 539, {"node_0": 30.0}, True),
        (40, 560, {}, False),  # nobody has answered, and there is time
        (460, 140, {}, True),  # most of the time is over
        (50, -5, {}, True),
    ],
)
def test_who_is_late(
    silent: float, left: float, answered: dict[str, float], expected: bool
) -> None:
    attendance = waiting(silent, left, "node-2", **answered)
    assert late(attendance, NOW) == (["node-2"] if expected else [])


def test_a_round_that_should_have_closed_is_closing() -> None:
    assert sentences(STATUS, waiting(61, -1, "node-2", node_0=4.0)) == [
        "node-2 has been silent for 1 min 01 s; the round is closing now."
    ]


def test_a_node_that_has_gone_is_named_unless_it_is_asked_or_refused() -> None:
    gone = replace(STATUS, nodes=[*STATUS.nodes[:2], NodeStatus("node-2", 1, "", 1, 0)])
    assert sentences(gone, Attendance()) == ["node-2 has taken no part since round 1."]
    assert "has taken no part" not in " ".join(sentences(gone, waiting(1, 9, "node-2")))
    refused = Attendance(refused={"node-2": "error 'bad-data'"})
    assert sentences(gone, refused) == ["node-2 was refused: error 'bad-data'."]
    never = replace(STATUS, nodes=[NodeStatus("node-2", -1, "", 0, 3)])
    assert sentences(never, Attendance()) == ["node-2 has taken no part in any round."]


def test_where_nobody_is_late_it_says_so() -> None:
    assert sentences(STATUS, waiting(2, 58, "node-1", "node-2")) == [
        "All is well: 2 nodes work on round 5, which closes in 58 s at the latest."
    ]
    assert sentences(STATUS, Attendance()) == [
        "All is well: nobody is late, and nobody is refused."
    ]


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("stopped", "The server has stopped, and the run is not complete."),
        ("failed", "The run failed: no room."),
        ("unknown", "Whether the server runs cannot be seen from here."),
        ("completed", "The run has completed."),
    ],
)
def test_a_run_that_is_not_running(state: str, sentence: str) -> None:
    status = replace(STATUS, state=state, reason="no room")  # type: ignore[arg-type]
    found = findings_now(status, Attendance(refused={"node-3": "x"}), NOW)
    assert [finding.what for finding in found] == [sentence]


def test_before_any_node_is_there() -> None:
    empty = replace(STATUS, nodes=[], round=0)
    [found] = findings_now(empty, Attendance(), NOW)
    assert found.what == "The run waits for nodes: too few are connected and accepted yet."
    assert "lumos node start" in found.advice


def test_of_many_nodes_some_are_named_and_the_rest_counted() -> None:
    names = [f"node-{n:03}" for n in range(200)]
    found = sentences(STATUS, waiting(40, 20, *names, other=4.0))
    assert len(found) == SHOWN + 1
    assert found[-1] == "180 more nodes are silent as well."
