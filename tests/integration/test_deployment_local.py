"""`lumos run` with real processes over gRPC on the loopback interface."""

import json
import re
import signal
import sys
import time
import urllib.request

import psutil
import pytest
from deployment_support import command, family, leftovers, named, start, wait_for, write_prepared

from lumos_core.flower.commands import free_ports
from lumos_core.runs.checkpoint import BEST, load_checkpoint
from lumos_core.runs.history import read_history
from lumos_core.wire.reply_checks import EVALUATION_METRICS, TRAIN_METRICS

pytestmark = pytest.mark.integration


@pytest.fixture
def data(tmp_path):
    return write_prepared(tmp_path / "data")


def rounds_of(run_dir):
    return [e for e in read_history(run_dir / "history.jsonl") if e["event"] == "round"]


def fleet_port(superlink):
    line = superlink.cmdline()
    return int(line[line.index("--fleet-api-address") + 1].rpartition(":")[2])


def text_at(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
        return response.read().decode()


def connected_to(process, port):
    try:
        connections = process.net_connections("tcp")
    except psutil.Error:
        return False
    return any(
        c.raddr and c.raddr.port == port and c.status == psutil.CONN_ESTABLISHED
        for c in connections
    )


def test_a_federation_over_grpc_from_start_to_end(data, tmp_path):
    run_dir, [page] = tmp_path / "run", free_ports(1)
    argv = [*command("run", data, run_dir, rounds=2), "--web", "--port", str(page)]
    with start(argv, tmp_path) as cli:
        superlink, *_ = wait_for(lambda: named(cli.pid, "flower-superlink"))
        nodes = wait_for(lambda: len(n := named(cli.pid, "flower-supernode")) == 2 and n)
        port = fleet_port(superlink)
        assert wait_for(lambda: all(connected_to(n, port) for n in nodes)), "no gRPC channel"
        everything = wait_for(lambda: named(cli.pid, "flwr-clientapp") and family(cli.pid), 90)
        # the page that follows the run knows whom the first round waits for
        wait_for(lambda: re.search(r"(1 node works|2 nodes work) on round 1", text_at(page)), 90)
        output, _ = cli.communicate(timeout=150)
    assert cli.returncode == 0, output
    assert f"page  http://127.0.0.1:{page}/" in output

    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["outcome"] == "completed"
    assert summary["rounds"] == 2
    assert [r["nodes_ok"] for r in rounds_of(run_dir)] == [2, 2]
    for name in (
        "checkpoint/best.safetensors", "report.md", "report.html", "config.json", "attendance.json",
        "logs/superlink.log",
    ):  # fmt: skip
        assert (run_dir / name).stat().st_size > 0
    lines = [line.split() for line in output.splitlines()]
    assert [line[0] for line in lines if line and re.fullmatch(r"start|\d+", line[0])] == [
        "start", "1", "2",
    ]  # fmt: skip
    model = {n: a.shape for n, a in load_checkpoint(run_dir / BEST).params.items()}
    # what left each node, by its own account: an introduction, two deltas, two evaluations
    for node in ("node-0", "node-1"):
        ledger = (data / node / "state" / "ledger.jsonl").read_text().splitlines()
        sent = [json.loads(line) for line in ledger]
        kinds = [line["message"] for line in sent]
        assert kinds == ["query.describe", "train", "train", "evaluate", "evaluate"]
        for line in sent[1:3]:
            *arrays, numbers = line["records"]
            assert {a["array"]: tuple(a["shape"]) for a in arrays} == model
            assert set(numbers["names"]) == TRAIN_METRICS | EVALUATION_METRICS
    assert leftovers(run_dir, everything) == []
    assert not any("lumos-" in (p.environ().get("FLWR_HOME") or "") for p in alive(everything))


def alive(processes):
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_however_the_command_ends_its_children_end(data, tmp_path, number, code):
    run_dir = tmp_path / "run"
    with start(command("run", data, run_dir, rounds=50), tmp_path) as cli:
        wait_for(lambda: named(cli.pid, "flwr-serverapp"))  # mid-run
        processes = family(cli.pid)
        assert len(named(cli.pid, "flower-supernode")) == 2
        cli.send_signal(number)
        ended = time.monotonic()
        output, _ = cli.communicate(timeout=30)
        assert cli.returncode == code, output
        wait_for(lambda: leftovers(run_dir, processes) == [], 15)
    assert time.monotonic() - ended < 20
    assert "Traceback" not in output


def test_too_few_nodes_end_in_a_clear_error(data, tmp_path):
    (data / "node-1" / "catalog.tsv").write_text("item_id\ttitle\ni1\tanother thing\n")
    (data / "node-1" / "interactions.tsv").write_text(
        "user_id\titem_id\ttimestamp\n" + "".join(f"u\ti1\t{t}\n" for t in range(4))
    )
    run_dir = tmp_path / "run"
    # the command itself would refuse such data, so ask the supervisor
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from lumos_core.config import RunConfig\n"
        "from lumos_core.deployment.local import LocalNode, deploy\n"
        f"data, run_dir = Path({str(data)!r}), Path({str(run_dir)!r})\n"
        "config = RunConfig(method='fedavg', semantic_start='none', dim=8, heads=1, rounds=1,"
        " catalog=str(data / 'catalog.tsv'), start_timeout=25)\n"
        "nodes = [LocalNode(f'node-{n}', data / f'node-{n}') for n in range(2)]\n"
        "summary = deploy(config, nodes, run_dir, print)\n"
        "print(summary.reason); sys.exit(summary.outcome != 'completed')"
    )
    with start([sys.executable, "-c", code], tmp_path) as supervisor:
        output, _ = supervisor.communicate(timeout=120)
    assert supervisor.returncode == 1
    assert "1 usable nodes after start-timeout = 25 s" in output
    assert "node-1" in output
    log = (data / "node-1" / "state" / "node.log").read_text()
    assert "give this node the run's catalog.tsv" in log
    assert leftovers(run_dir, []) == []


def test_a_killed_node_costs_its_replies_and_not_the_run(tmp_path):
    data = write_prepared(tmp_path / "data", nodes=3)
    run_dir = tmp_path / "run"
    argv = command("run", data, run_dir, rounds=1, round_timeout="20", min_replies="2")
    with start(argv, tmp_path) as cli:
        wait_for(lambda: named(cli.pid, "flwr-serverapp"))
        victim = named(cli.pid, "flower-supernode")[1]
        name = victim.cmdline()[victim.cmdline().index("--node-config") + 1].split("/")[-2]
        wait_for(lambda: (data / name / "state" / "ledger.jsonl").exists())  # it has joined
        wait_for(lambda: train_started(data, name) or rounds_of(run_dir), 90)
        victim.kill()
        output, _ = cli.communicate(timeout=200)
    assert cli.returncode == 0, output
    assert f"{name} has ended" in output
    lost = [r for r in rounds_of(run_dir) if r["nodes_ok"] == 2]
    assert lost, rounds_of(run_dir)
    assert all(f["node"] == name for r in lost for f in r["failed"])
    assert all(r["seconds"] < 30 for r in rounds_of(run_dir))
    assert leftovers(run_dir, []) == []


def train_started(data, name):
    return len((data / name / "state" / "ledger.jsonl").read_text().splitlines()) > 1
