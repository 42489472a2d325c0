import json
import re
from pathlib import Path

import pytest
from page_histories import METRICS, history, summary

from lumos_core.config import RunConfig
from lumos_core.pages.page import Findings, Table, render
from lumos_core.runs.attendance import ATTENDANCE, Attendance
from lumos_core.runs.report import CENTRALISED, Row
from lumos_core.runs.report_page import (
    MOST_ROUNDS,
    OPEN_NODES,
    PAGE,
    Example,
    rounds_table,
    run_page,
    write_failed_page,
    write_page,
)
from lumos_core.runs.saved_config import CONFIG, SavedConfig
from lumos_core.runs.summary import RunSummary
from lumos_core.runs.view_coverage import RunViews

ROWS = [Row("federated lumos", METRICS), Row(CENTRALISED, {**METRICS, "hr@20": 0.25})]


def blocks(page, key):
    [section] = [s for s in page.sections if s.key == key]
    return section.blocks


def test_the_first_sentence_says_how_it_ended_and_how_good_it_is() -> None:
    page = run_page(summary(), ROWS, history(10), {})
    assert page.lead == (
        "Completed 10 rounds in 1 min 31 s. The model of round 7 has a user's next item among its "
        "first 20 suggestions for 30.0% of users, 120% of what training on all data in one place "
        "reaches."
    )
    assert page.tone == "good"


def test_missing_views_and_an_early_end_are_said_first_too() -> None:
    views = RunViews(complete=False, rounds=10, rounds_lacking=2, nodes={"node-1": 2})
    page = run_page(summary(views=views, reason="patience"), ROWS, history(10), {})
    assert "It ended early: patience." in page.lead
    assert "Views were missing in 2 of 10 rounds, so these are not the figures" in page.lead
    [findings] = blocks(page, "failures")
    assert "Views were missing: node-1 in 2 of 10 rounds." in findings.items[0].what
    assert page.tone == "attention"


def test_a_failed_run_says_why_and_what_to_do() -> None:
    failed = RunSummary(outcome="failed", reason="gave up: 3 failed rounds in a row")
    page = run_page(failed, [], [], {})
    assert page.lead == "This run failed after 0 rounds in 0 s: gave up: 3 failed rounds in a row."
    assert page.tone == "bad"
    [findings] = blocks(page, "failures")
    assert [i.what for i in findings.items] == [
        "The run failed: gave up: 3 failed rounds in a row."
    ]
    assert "server.log" in findings.items[0].advice


def test_failures_of_nodes_are_told_with_advice() -> None:
    events = history(10, failing={"node-2": "no reply before the deadline"})
    [findings] = blocks(run_page(summary(), ROWS, events, {}), "failures")
    assert isinstance(findings, Findings)
    [item] = findings.items
    assert item.what == ("node-2 failed 2 times, in rounds 5 and 10: no reply before the deadline.")
    assert "round-timeout" in item.advice


def test_a_refused_node_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(e) + "\n" for e in history(3)))
    Attendance(refused={"node-9": "error 'bad-data'"}).write(tmp_path / ATTENDANCE)
    text = write_page(tmp_path, summary(), ROWS).read_text("utf-8")
    assert "node-9 was refused: error &#39;bad-data&#39;." in text
    assert "lumos node check" in text
    assert "Nothing failed" not in text


def test_nothing_failed_is_said_as_well() -> None:
    [findings] = blocks(run_page(summary(), ROWS, history(3), {}), "failures")
    assert [i.tone for i in findings.items] == ["good"]


def test_a_node_that_fails_often_stands_first_with_its_reason() -> None:
    events = history(10, failing={"node-2": "error 'bad-data'"})
    [table] = blocks(run_page(summary(), ROWS, events, {}), "nodes")
    assert [row[0] for row in table.rows] == ["node-2", "node-0", "node-1"]
    assert table.rows[0][1].text == "8 of 10"
    assert table.rows[0][-1] == "error 'bad-data'"


def test_test_metrics_by_node_are_shown_if_the_history_has_them() -> None:
    told = {f"node-{n}": {"users": 10, "hr@20": n / 10, "ndcg@20": n / 20} for n in range(3)}
    events = [*history(3), {**history(3)[-1], "split": "test", "by_node": told}]
    _, table = blocks(run_page(summary(), ROWS, events, {}), "nodes")
    assert [row[0] for row in table.rows] == ["node-0", "node-1", "node-2"]
    assert "worst tenth 0.0000" in table.note


def test_many_nodes_and_rounds_are_folded_and_thinned() -> None:
    names = [f"node-{n}" for n in range(40)]
    page = run_page(summary(), ROWS, history(1000, names), {})
    first, more = blocks(page, "nodes")
    assert len(first.rows) == OPEN_NODES
    assert not first.folded
    assert more.folded
    assert len(first.rows) + len(more.rows) == 40
    table = rounds_table(history(1000, names))
    assert isinstance(table, Table)
    assert len(table.rows) <= MOST_ROUNDS + 2
    assert table.rows[-1][0] == "1000"
    assert "1,000" in table.note


def test_where_each_client_is_one_user_nothing_is_shown_by_client() -> None:
    events = history(5, failing={"node-1": "error 'bad-data'"})
    for event in events:
        event["users"] = event.get("nodes_ok", 3)
    page = run_page(summary(), ROWS, events, {})
    assert "node-1" not in render(page)
    assert "one user" in blocks(page, "nodes")[0].text


def test_privacy_is_told_in_words() -> None:
    config = {"dp": "user", "dp-delta": 1e-5, "secure-aggregation": True}
    page = run_page(summary(epsilon=3.217), ROWS, history(3), config)
    text = " ".join(b.text for b in blocks(page, "privacy"))
    assert "kind user: ε = 3.22 at δ = 1e-05" in text
    assert "sums over nodes only" in text
    plain = run_page(summary(), ROWS, history(3), {"dp": "none"})
    assert "no differential privacy" in " ".join(b.text for b in blocks(plain, "privacy"))


def test_changed_keys_stand_first_and_paths_stay_out(tmp_path: Path) -> None:
    config = RunConfig(rounds=7, catalog="/home/somebody/catalog.tsv", **{"run-dir": "/home/x"})
    changed, everything = blocks(
        run_page(summary(), ROWS, history(3), config.to_flat()), "configuration"
    )
    assert changed.rows == [["rounds", "7", "20"]]
    assert everything.folded
    assert "/home" not in render(run_page(summary(), ROWS, history(3), config.to_flat()))


def test_hostile_names_and_titles_stay_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    (tmp_path / "history.jsonl").write_text(
        "".join(json.dumps(e) + "\n" for e in history(6, [bad, "node-1"], {bad: bad}))
    )
    SavedConfig(run={"method": bad}, nodes={}).write(tmp_path / CONFIG)
    path = write_page(
        tmp_path, summary(method=bad), [Row(bad, METRICS)], [Example(bad, [("history", bad)])]
    )
    assert path == tmp_path / PAGE
    text = path.read_text("utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 6


def test_a_damaged_history_does_not_hide_why_a_run_failed(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("not json\n")
    write_failed_page(tmp_path, RunSummary(outcome="failed", reason="x"))
    assert not (tmp_path / PAGE).exists()
    (tmp_path / "history.jsonl").unlink()
    write_failed_page(tmp_path, RunSummary(outcome="failed", reason="the disk is full"))
    assert "the disk is full" in (tmp_path / PAGE).read_text("utf-8")


@pytest.mark.parametrize("events", [[], history(1)])
def test_a_page_can_be_made_of_any_run(events) -> None:
    text = render(run_page(summary(epsilon=1.0), [], events, {}))
    assert re.search(r"<h1>lumos, seed 3</h1>", text)
