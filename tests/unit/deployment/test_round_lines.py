"""What terminals and files say about views: of all nodes, of one, of a run that lacked some."""

import io
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from lumos_core.deployment.node_supervisor import _ViewLog
from lumos_core.deployment.round_lines import RoundLines
from lumos_core.runs.history import Event
from lumos_core.runs.report import federated_row, write_report
from lumos_core.runs.summary import RunSummary
from lumos_core.runs.view_coverage import RunViews
from lumos_core.views.meter import FILE, ViewProgress


def said(events: list[Event], local: bool = False) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=100)
    with RoundLines(console, 3, local=local).live() as lines:
        for event in events:
            lines(event)
    return out.getvalue().splitlines()


def views(node: str, **facts: Any) -> Event:
    return {"event": "views", "round": 0, "node": node, **facts}


READY: Event = {"event": "views-ready", "round": 0}


def test_every_node_has_a_line_from_the_start() -> None:
    lines = said(
        [
            *(views(n, percent=0, seconds_left=0.0, done=False) for n in ("a", "b")),
            views("a", percent=40, seconds_left=90.0, done=False),
            views("b", percent=100, seconds_left=0.0, done=True),
            READY,
        ]
    )
    assert lines[:2] == ["views of a: 0 %", "views of b: 0 %"]
    assert any(line.startswith("views of b: 100 %") for line in lines)
    assert any("40 %" in line and "about 1 min 30 s left" in line for line in lines)


def test_on_this_computer_all_users_are_one_task() -> None:
    lines = said(
        [
            {"event": "views-progress", "done": 0, "total": 10, "note": "loading"},
            views("a", percent=40, seconds_left=90.0, done=False),
            {"event": "views-progress", "done": 30, "total": 30, "note": ""},
            READY,
        ],
        local=True,
    )
    assert lines[0] == "views: 0 %, 0 of 10 users, loading"
    assert lines[-1].startswith("views: 100 %, 30 of 30 users")
    assert not any("views of a" in line for line in lines)


def test_a_node_that_cannot_is_named_everywhere() -> None:
    failed = views("a", failed=[{"node": "a", "reason": "error 'model-failed'"}])
    for local in (True, False):
        assert "a: no views for now: error 'model-failed'; it joins later" in said(
            [failed, READY], local
        )


def test_views_that_are_all_there_are_no_news() -> None:
    assert said([{"event": "views-progress", "done": 9, "total": 9, "note": ""}, READY], True) == []


def test_a_node_s_own_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    told = _ViewLog(tmp_path, Console(file=out, width=100))

    def write(**facts: Any) -> None:
        progress = ViewProgress(users=20, total=20, time=time.time() + 1, **facts)
        (tmp_path / FILE).write_text(progress.model_dump_json())
        told.look()

    told.look()
    (tmp_path / FILE).write_text(ViewProgress(users=3, users_done=3, time=1.0).model_dump_json())
    told.look()
    assert out.getvalue() == "", "what an earlier run has left is no news"
    write(stage="users", done=5, users_done=5, seconds_left=12.0)
    write(stage="users", done=6, users_done=6, seconds_left=11.0)
    write(stage="users", done=20, users_done=20)
    lines = [line.partition(" views: ")[2] for line in out.getvalue().splitlines()]
    assert lines == ["users 5 of 20, about 12 s left", "all 20 users have views"]


def test_table_and_report_say_what_was_missing(tmp_path: Path) -> None:
    metrics = dict.fromkeys(("hr@10", "hr@20", "ndcg@20", "mrr"), 0.1)
    summary = RunSummary(
        method="lumos", seed=0, outcome="completed", reason="", rounds=2,
        seconds=9.0, best_round=1, bytes_up=1, bytes_down=1, test=metrics,
    )  # fmt: skip
    some = RunViews(complete=False, rounds=2, rounds_lacking=1, nodes={"node-1": 1})
    whole = summary.model_copy(update={"views": RunViews(complete=True)})
    lacking = summary.model_copy(update={"views": some})
    assert federated_row(summary).name == federated_row(whole).name == "federated lumos"
    assert federated_row(lacking).name == "federated lumos (views incomplete)"
    (tmp_path / "history.jsonl").write_text("")
    text = write_report(tmp_path, lacking, [federated_row(lacking)]).read_text()
    assert "**Views were missing: node-1 in 1 of 2 rounds." in text
    assert "missing" not in write_report(tmp_path, whole, [federated_row(whole)]).read_text()


def test_a_node_with_other_versions_is_named_with_what_to_install() -> None:
    note = "it has LUMOS 0.1.0 (here 0.2.0); install on the node: pip install lumos==0.2.0"
    event = {"event": "versions", "round": 0, "node": "north", "note": note}
    lines = said([event, {**event, "node": "south", "note": ""}])
    assert lines == [f"north: {note}"]


def test_a_round_says_who_was_late_and_whose_work_is_old() -> None:
    usual = {
        "event": "round", "seconds": 1.0, "bytes_up": 9, "bytes_down": 9, "nodes_ok": 3,
        "loss": 1.0, "failed": [],
    }  # fmt: skip
    lines = said(
        [
            {**usual, "round": 1},
            {**usual, "round": 2, "late": ["a"], "busy": ["b"]},
            {**usual, "round": 3, "staleness": {"a": 4}, "working": ["b"]},
        ]
    )
    assert [line.rpartition(" bytes ")[2].strip() for line in lines[1:]] == [
        "3 ok", "3 ok, 2 late", "3 ok, 1 stale",
    ]  # fmt: skip
