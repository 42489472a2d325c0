"""Faults in a federation on one machine, without TLS and namespaces: what is killed and resumed
ends in the same bits, and what fails costs its own replies and nothing else."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress

import psutil
import pytest
from deployment_support import (
    LUMOS,
    TINY,
    command,
    leftovers,
    named,
    node_process,
    start,
    wait_for,
    wrapped_app,
    write_prepared,
)

from lumos_core.config import RunConfig
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.data.splits import LeaveOneOut
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.round_loop import run_federation
from lumos_core.learning.title_start import initial_params
from lumos_core.runs.checkpoint import BEST, LATEST, load_checkpoint
from lumos_core.runs.history import read_history

pytestmark = pytest.mark.integration


def rounds_of(run_dir):
    return [e for e in read_history(run_dir / "history.jsonl") if e["event"] == "round"]


def never_stopped(run_dir, data, folder):
    """The same run without processes, network or fault."""
    saved = json.loads((run_dir / "config.json").read_text())["run"]
    config = RunConfig.from_flat({**saved, "run-dir": ""})
    catalog, parts = load_prepared(data)
    nodes = [Node(f"node-{n}", catalog, part, config) for n, part in enumerate(parts)]
    start_from = initial_params(config, catalog)
    run_federation(
        config, InProcessTransport(nodes), catalog.fingerprint, start_from, run_dir=folder
    )
    return folder


def bits(arrays):
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}


@pytest.mark.parametrize(
    ("program", "rounds", "seed"),
    [
        ("flower-superlink", 4, 1),
        pytest.param("flower-superlink", 10, 1, marks=pytest.mark.faults),
        pytest.param("flwr-serverapp", 10, 3, marks=pytest.mark.faults),
    ],
)
def test_a_killed_server_is_resumed_to_the_same_bits(tmp_path, program, rounds, seed):
    """Killed at any time of any round but the first, and gone on with by the command that says so:
    the same bits as a run in one process that nothing ever stopped. (Four rounds where every run of
    the tests pays for it, ten otherwise.)"""
    draw = random.Random(seed)
    after, later = draw.randint(1, rounds - 1), draw.uniform(0, 2)
    data, run_dir = write_prepared(tmp_path / "data"), tmp_path / "run"
    with start(command("run", data, run_dir, rounds=rounds), tmp_path) as cli:
        wait_for(lambda: len(rounds_of(run_dir)) >= after, 300)
        time.sleep(later)
        [victim] = named(cli.pid, program)
        victim.kill()
        output, _ = cli.communicate(timeout=150)
    assert cli.returncode == 1, output
    assert not (run_dir / "summary.json").exists()
    assert after <= load_checkpoint(run_dir / LATEST).progress.round < rounds
    assert leftovers(run_dir, []) == []

    argv = [*LUMOS, "run", "--resume", "--run-dir", str(run_dir), "--no-baselines"]
    with start(argv, tmp_path) as cli:
        output, _ = cli.communicate(timeout=400)
    assert cli.returncode == 0, output
    assert [(e["round"], e["nodes_ok"]) for e in rounds_of(run_dir)] == [
        (n, 2) for n in range(1, rounds + 1)
    ]
    reference = never_stopped(run_dir, data, tmp_path / "reference")
    for name in (BEST, LATEST):
        found, expected = load_checkpoint(run_dir / name), load_checkpoint(reference / name)
        assert bits(found.params) == bits(expected.params)
        assert bits(found.optimizer) == bits(expected.optimizer)
        assert found.progress.best_round == expected.progress.best_round
    assert found.progress.round == rounds


# ---------------------------------------------------------------- a ClientApp
COUNTED_STORE = """
CREATE TABLE views (
    key BLOB PRIMARY KEY,
    future BLOB NOT NULL,
    paraphrase BLOB NOT NULL,
    counterfactual BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE written (key BLOB);
CREATE TRIGGER counted BEFORE INSERT ON views BEGIN INSERT INTO written VALUES (NEW.key); END;
"""  # as ViewStore makes it, and a row more for everything that is put into it, also if it is there


def counted_store(path):
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(COUNTED_STORE)
    return path


def rows(path, table="views"):
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
        return db.execute(f"SELECT * FROM {table}").fetchall()


SAYS_WHEN_IT_TRAINS = """
import os
from client_app.honest import *
from client_app import honest
from lumos_core.federation.node import Node

app = honest.app  # Flower looks for a line of this form
honest_train = Node.train

def train(node, params, round, evaluate_on=None):
    if node.name == "node-1":
        Path({folder!r}, f"round-{{round}}").write_text(str(os.getpid()))
    return honest_train(node, params, round, evaluate_on)

Node.train = train
"""  # the process that trains, by round, in a file


@pytest.mark.faults
def test_a_killed_client_app_costs_its_round_and_no_view(tmp_path):
    """All views are written before round 1. A process that dies while it trains costs its node that
    round; the views stay in the store, so the next process trains on them and writes none."""
    deadline, at = 40, 2
    data = write_prepared(tmp_path / "data", users=800, items=400)
    run_dir, training = tmp_path / "run", tmp_path / "training"
    training.mkdir()
    app = wrapped_app(tmp_path / "app", SAYS_WHEN_IT_TRAINS.format(folder=str(training)))
    _, parts = load_prepared(data)
    train = LeaveOneOut(parts[1]).train()
    histories = len({tuple(train[user].tolist()) for user in range(len(train))})
    store = counted_store(data / "node-1" / "state" / "views.sqlite")
    settings = {"method": "lumos", "views": "tfidf", "min_replies": "1", "max_failed_rounds": "9"}
    argv = command(
        "run", data, run_dir, rounds=50, round_timeout=str(deadline), local_epochs="5", **settings
    )
    with start(argv, app) as cli:  # Python finds packages of this folder first
        node = wait_for(lambda: node_process(cli.pid, "node-1"))
        pid = wait_for(lambda: number_in(training / f"round-{at}"), 300, every=0.01)
        client = psutil.Process(pid)
        client.kill()
        kept = rows(store)
        gone, _ = psutil.wait_procs([client], 10)
        assert gone
        back = wait_for(
            lambda: [e for e in rounds_of(run_dir) if e["round"] > at and "node-1" in e["ok"]], 300
        )[0]
        assert node.is_running()
        cli.send_signal(signal.SIGINT)
        output, _ = cli.communicate(timeout=60)
    assert cli.returncode == 130, output
    [ready] = [e for e in read_history(run_dir / "history.jsonl") if e["event"] == "views-ready"]
    assert (ready["nodes"], ready["not_ready"]) == (["node-0", "node-1"], [])
    before, hit = rounds_of(run_dir)[:at]
    assert before["ok"] == ["node-0", "node-1"]
    assert hit["ok"] == ["node-0"]
    assert [failure["node"] for failure in hit["failed"]] == ["node-1"]
    assert hit["seconds"] < deadline + 15
    assert len(kept) == histories
    assert rows(store) == kept
    written = [key for (key,) in rows(store, "written")]
    assert len(written) == len(set(written)) == histories
    assert "views_lacking" not in back
    assert leftovers(run_dir, []) == []


def number_in(path):
    """The number in a file; 0 until it is there."""
    return int(path.read_text() or 0) if path.exists() else 0


# ---------------------------------------------------------------- nodes that cannot take part
DEPLOY = """
import sys
from lumos_core.config import RunConfig
from lumos_core.deployment.local import LocalNode, deploy
data = Path({data!r})
settings = {{"node-2": {{"state": {full!r}}}}}
nodes = [LocalNode(f"node-{{n}}", data / f"node-{{n}}", settings.get(f"node-{{n}}", {{}}))
         for n in range(4)]
summary = deploy(RunConfig.from_flat({config!r}), nodes, Path({run_dir!r}), print)
print(summary.reason)
sys.exit(summary.outcome != "completed")
"""


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 512 KiB."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Take all space that is left; returns the file that has it."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 512):
            pass
    return path


@pytest.mark.faults
def test_a_full_disk_and_a_foreign_catalog_cost_their_own_node_only(tmp_path, small_disk):
    """node-0 and node-1 are well, node-2's disk is full for a while, node-3 has another catalog
    (the command would see that beforehand, on one machine: so the supervisor is asked)."""
    data, run_dir = write_prepared(tmp_path / "data", nodes=4), tmp_path / "run"
    foreign = (data / "catalog.tsv").read_text().replace("thing number 0", "another thing")
    (data / "node-3" / "catalog.tsv").write_text(foreign)
    rounds = 6
    config = RunConfig.from_flat(
        {**TINY, "catalog": str(data / "catalog.tsv"), "rounds": rounds, "min-nodes": 3,
         "min-replies": 2}
    )  # fmt: skip
    code = DEPLOY.format(
        data=str(data), full=str(small_disk), config=config.to_flat(), run_dir=str(run_dir)
    )
    with start([sys.executable, "-c", code], tmp_path) as supervisor:
        wait_for(lambda: rounds_of(run_dir), 120)
        filler = fill(small_disk)
        failed = wait_for(lambda: [e for e in rounds_of(run_dir) if e["failed"]], 60)[0]
        filler.unlink()
        output, _ = supervisor.communicate(timeout=200)
    assert supervisor.returncode == 0, output
    everything = rounds_of(run_dir)
    assert [e["round"] for e in everything] == list(range(1, rounds + 1))
    assert all({"node-0", "node-1"} <= set(e["ok"]) for e in everything)
    assert failed["failed"] == [{"node": "node-2", "reason": "error 'ledger-failed'"}]
    assert "node-2" in everything[-1]["ok"]  # there is room again
    for line in (small_disk / "ledger.jsonl").read_text().splitlines():
        json.loads(line)  # none was left half written
    assert not any("node-3" in json.dumps(e) for e in read_history(run_dir / "history.jsonl"))
    assert "node node-3: refused: its catalog is" in (run_dir / "logs" / "server.log").read_text()
    log = (data / "node-3" / "state" / "node.log").read_text()
    assert "give this node the run's catalog.tsv" in log
    assert leftovers(run_dir, []) == []
