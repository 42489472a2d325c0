"""`lumos run` writes all views before it trains, on a machine that has never seen LUMOS; and where
views are missing, nobody can overlook it."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from deployment_support import (
    LUMOS,
    command,
    deploying,
    leftovers,
    node_process,
    start,
    wait_for,
    wrapped_app,
    write_prepared,
)

from lumos_core.config import RunConfig
from lumos_core.runs.history import read_history
from lumos_core.wire.reply_checks import PREPARATION_METRICS

pytestmark = pytest.mark.integration
USERS = 5


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_prepared(tmp_path / "data", users=USERS)


def ledger(data: Path, node: str) -> list[dict]:
    text = (data / node / "state" / "ledger.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_lumos_is_lumos_on_a_machine_that_has_never_seen_it(data, tmp_path):
    """The real language model, real processes, an empty cache, output to a file."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "HF_"))}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    settings = {"method": "lumos", "semantic-start": "llm", "start-timeout": "300"}
    run_dir = tmp_path / "run"
    done = subprocess.run(
        command("run", data, run_dir, rounds=1, **settings),
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=420, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"views  {2 * USERS} generated, 0 reused\n" in done.stdout
    assert "views: " in done.stdout, "progress, also in a file"
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["views"]["complete"] is True
    assert "incomplete" not in done.stdout
    [ready] = [e for e in read_history(run_dir / "history.jsonl") if e["event"] == "views-ready"]
    assert ready["nodes"] == ["node-0", "node-1"]
    for node in ready["nodes"]:
        sent = ledger(data, node)
        kinds = [line["message"] for line in sent]
        assert kinds[:2] == ["query.describe", "query.prepare"]
        assert max(i for i, k in enumerate(kinds) if k == "query.prepare") < kinds.index("train")
        for line in sent:
            if line["message"] == "query.prepare":
                [record] = line["records"]
                assert set(record["names"]) == PREPARATION_METRICS


def test_a_run_without_views_says_so_in_five_places(data, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # of the table
    run_dir = tmp_path / "run"
    options = ["-c", "node.view-seconds=0", "-c", "view-timeout=0", "-c", "views=tfidf"]
    with start([*command("run", data, run_dir, 2, method="lumos"), *options], tmp_path) as cli:
        output, _ = cli.communicate(timeout=150)
    assert cli.returncode == 0, output
    said = "Views were missing: node-0 in 2 of 2 rounds, node-1 in 2 of 2 rounds."
    *_, last = output.strip().splitlines()
    assert last.startswith(said)
    assert "(views incomplete)" in output
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["views"]["complete"] is False
    assert summary["views"]["nodes"] == {"node-0": 2, "node-1": 2}
    assert said in (run_dir / "report.md").read_text()
    status = subprocess.run(
        [*LUMOS, "status", str(run_dir)], capture_output=True, text=True, check=False
    )
    assert said in " ".join(status.stdout.split())


SLOW_NODE = """
import time
from client_app.honest import *
from client_app import honest

app = honest.ClientApp()
app.query("describe")(honest.answer)
app.train()(honest.answer)
app.evaluate()(honest.answer)

@app.query("prepare")
def prepare(message, context):
    if honest.node_config(context).name == "node-1":
        time.sleep(600)
    return honest.answer(message, context)
"""


@pytest.mark.faults
def test_a_node_that_is_killed_while_it_writes_delays_nobody_for_long(data, tmp_path):
    run_dir = tmp_path / "run"
    config = RunConfig.from_flat(
        {
            "method": "lumos", "views": "tfidf", "semantic-start": "none", "dim": 8, "heads": 1,
            "layers": 1, "rounds": 2, "min-nodes": 2, "min-replies": 1, "local-epochs": 1,
            "catalog": str(data / "catalog.tsv"), "max-failed-rounds": 9,
        }
    )  # fmt: skip
    app = wrapped_app(tmp_path / "app", SLOW_NODE)
    with start(deploying(app, data, config, 2, run_dir), tmp_path) as cli:
        history = run_dir / "history.jsonl"
        wait_for(lambda: any(e["event"] == "views" for e in read_history(history)), 120)
        time.sleep(2)
        killed = time.monotonic()
        node = node_process(cli.pid, "node-1")
        assert node is not None
        node.kill()
        wait_for(lambda: any(e["event"] == "views-ready" for e in read_history(history)), 120)
        assert time.monotonic() - killed < 90, "Flower misses a dead node after 45 s"
        output, _ = cli.communicate(timeout=240)
    assert cli.returncode == 0, output
    events = read_history(history)
    [ready] = [e for e in events if e["event"] == "views-ready"]
    assert (ready["nodes"], ready["not_ready"]) == (["node-0"], ["node-1"])
    assert [e["ok"] for e in events if e["event"] == "round"] == [["node-0"]] * 2
    assert leftovers(run_dir, []) == []
