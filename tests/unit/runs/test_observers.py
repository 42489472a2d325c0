"""Status of a run folder, the server's lock, log lines, Prometheus metrics, trackers."""

import io
import json
import logging
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from flower_in_process import InProcessGrid, node_context, tiny_config, write_nodes
from flwr.app import Context, RecordDict
from typer.testing import CliRunner

from client_app.client import app as client
from lumos_core import logs
from lumos_core.cli.app import app as cli
from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError, DataError, FederationError
from lumos_core.flower.commands import free_ports
from lumos_core.runs import observers
from lumos_core.runs.certificate_dates import CertificateDates
from lumos_core.runs.history import Event, History
from lumos_core.runs.lock import is_held, only_server
from lumos_core.runs.status import status_of
from server_app.server import app as server

TIME = "2026-01-02T03:04:05.000+00:00"


def evaluation(number: int, ndcg: float, split: str = "validation") -> Event:
    return {"event": "evaluation", "round": number, "split": split, "time": TIME,
            "nodes": ["a", "b"], "users": 20, "hr@20": 0.5, "ndcg@20": ndcg,
            "mrr": 0.1}  # fmt: skip


def round_(number: int, kind: str = "round", **facts: Any) -> Event:
    return {"event": kind, "round": number, "time": TIME, "seconds": 2.5, "bytes_up": 7,
            "bytes_down": 11, "nodes_ok": 1, "ok": ["a"], "users": 10, "loss": 3.0,
            "failed": [{"node": "b", "reason": "error 'bad-data'"}], **facts}  # fmt: skip


EVENTS = [
    evaluation(0, 0.1), round_(1), evaluation(1, 0.3),
    round_(2, "failed-round", nodes_ok=0, ok=[], reason="0 valid replies"),
    round_(2), evaluation(2, 0.2), evaluation(1, 0.25, "test"),
]  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    history = History(tmp_path / "run" / "history.jsonl")
    for event in EVENTS:
        history.add(event)
    config = {"run": {**RunConfig(rounds=5).to_flat()}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return tmp_path / "run"


# ---------------------------------------------------------------- status
def test_status_reads_rounds_metrics_nodes_and_failures(run_dir):
    found = status_of(run_dir)
    assert (found.state, found.round, found.rounds, found.best_round) == ("stopped", 2, 5, 1)
    assert [e["ndcg@20"] for e in found.evaluations] == [0.1, 0.3, 0.2]
    nodes = {n.name: (n.last_round, n.last_seen, n.rounds, n.failures) for n in found.nodes}
    assert nodes == {"a": (2, TIME, 2, 0), "b": (2, TIME, 0, 3)}
    assert {"round": 2, "node": "", "reason": "0 valid replies"} in found.failures


def views(node: str, percent: int | None, done: bool = False) -> Event:
    return {"event": "views", "round": 0, "node": node, "percent": percent, "seconds_left": 60.0,
            "done": done, "time": TIME}  # fmt: skip


def test_before_round_1_it_tells_how_far_each_node_is_with_its_views(tmp_path):
    history = History(tmp_path / "history.jsonl")
    for event in (views("b", 10), views("a", 5), views("b", None), views("c", 80, done=True)):
        history.add(event)
    found = status_of(tmp_path).preparing
    assert [(p["node"], p["percent"], p["done"]) for p in found] == [
        ("a", 5, False), ("b", None, False), ("c", 80, True),
    ]  # fmt: skip
    shown = CliRunner().invoke(cli, ["status", str(tmp_path)]).output
    for text in ("5 %", "does not answer", "finished"):
        assert text in shown
    history.add(round_(1))
    assert status_of(tmp_path).preparing == []


def test_the_best_round_is_the_one_that_the_server_chose(run_dir):
    """By what was bounded, not by what one node made of the mean."""
    lie = {**evaluation(3, 0.9), "selection": 0.2, "doubted": ["b"]}
    (run_dir / "history.jsonl").open("a").write(json.dumps(lie) + "\n")
    found = status_of(run_dir)
    assert found.best_round == 1
    [doubt] = [f for f in found.failures if f["round"] == 3]
    assert doubt["node"] == "b"
    assert "out of line" in doubt["reason"]


def test_certificates_that_expire_soon_are_warned_of(run_dir):
    assert status_of(run_dir).certificates == {}
    assert "certificate" not in CliRunner().invoke(cli, ["status", str(run_dir)]).output
    day, now = 86_400.0, time.time()
    expires = {"server": now + 9.4 * day, "ca": now + 400 * day}
    CertificateDates(expires=expires).write(run_dir / "certificates.json")
    found = status_of(run_dir)
    assert found.certificates == {"server": 9.4, "ca": 400.0}
    [sentence] = found.expiring
    assert sentence.startswith("the server's certificate expires in 9 days")
    shown = CliRunner().invoke(cli, ["status", str(run_dir)]).output
    assert sentence in shown
    assert "authority" in shown
    as_json = json.loads(CliRunner().invoke(cli, ["status", str(run_dir), "--json"]).output)
    assert as_json["certificates"]["ca"] == 400.0


def test_a_run_is_alive_while_its_server_holds_the_folder(run_dir):
    with only_server(run_dir):
        assert status_of(run_dir).state == "running"
    assert status_of(run_dir).state == "stopped"
    (run_dir / "summary.json").write_text('{"outcome": "failed", "reason": "why"}')
    assert (status_of(run_dir).state, status_of(run_dir).reason) == ("failed", "why")
    with only_server(run_dir):  # resumed: the summary is of the part before
        assert status_of(run_dir).state == "running"


def test_two_servers_never_share_a_folder(run_dir):
    with (
        only_server(run_dir),
        pytest.raises(FederationError, match="another server"),
        only_server(run_dir, seconds=0.1),
    ):
        pass
    assert is_held(run_dir) is False


def test_the_command_shows_tables_or_json(run_dir):
    result = CliRunner().invoke(cli, ["status", str(run_dir), "--json"])
    assert result.exit_code == 1  # it stopped before its end
    assert json.loads(result.stdout)["best_round"] == 1
    (run_dir / "summary.json").write_text('{"outcome": "completed", "reason": ""}')
    result = CliRunner().invoke(cli, ["status", str(run_dir)])
    assert result.exit_code == 0
    for text in ("completed", "round 2 of 5", "0.3000", "bad-data"):
        assert text in result.stdout


@pytest.mark.parametrize(
    "line", ['{"event": "round"}', '{"event": "evaluation", "split": "validation", "round": 1}']
)
def test_an_entry_without_its_keys_is_damaged(run_dir, line):
    (run_dir / "history.jsonl").open("a").write(line + "\n")
    with pytest.raises(DataError, match=r"history\.jsonl .*lacks a key.*damaged"):
        status_of(run_dir)


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(DataError, match="expected the folder of a run"):
        status_of(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        status_of(tmp_path)


# ---------------------------------------------------------------- logs
def test_json_lines_hold_facts_but_no_text_of_an_exception():
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    log = logging.getLogger("client_app.test")
    log.debug("not shown")
    try:
        raise ValueError("user 'alice' bought a secret thing")
    except ValueError:
        log.exception("train failed", extra={"facts": {"round": 3, "code": "bad-data"}})
    [line] = stream.getvalue().splitlines()
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert found == {"level": "error", "logger": "client_app.test", "message": "train failed",
                     "round": 3, "code": "bad-data", "error": "ValueError"}  # fmt: skip


def test_text_lines_hold_the_same():
    stream = io.StringIO()
    logs.configure("text", "warning", stream)
    log = logging.getLogger("server_app.test")
    log.info("not shown")
    try:
        raise KeyError("secret")
    except KeyError as error:
        log.warning("dropped %s", "x", exc_info=error, extra={"facts": {"round": 1}})
    [line] = stream.getvalue().splitlines()
    assert line.endswith("WARNING server_app.test: dropped x round=1 error=KeyError")


def test_a_library_logs_in_the_same_way():
    stream, library = io.StringIO(), logging.getLogger("some.library")
    logs.configure("text", "info", stream, others=["some.library"])
    try:
        library.info("not shown")
        library.error("broken", exc_info=KeyError("secret"))
        [line] = stream.getvalue().splitlines()
    finally:
        library.handlers, library.propagate = [], True
    assert line.endswith("ERROR some.library: broken error=KeyError")


# ---------------------------------------------------------------- observers
def observe_all(config: RunConfig, run_dir: Path) -> None:
    with observers.observing(config, run_dir) as observe:
        for event in EVENTS:
            observe(event)


def test_prometheus_counts_bytes_replies_and_quality(tmp_path):
    [port] = free_ports(1)
    config = RunConfig(metrics_port=port, rounds=5)
    url = f"http://127.0.0.1:{port}/metrics"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with observers.observing(config, tmp_path) as observe:
        for event in (views("a", 40), views("b", 80, done=True), *EVENTS):
            observe(event)
        text = opener.open(url, timeout=5).read().decode()
        with (
            pytest.raises(ConfigError, match="metrics-port"),
            observers.observing(config, tmp_path),
        ):
            pass
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert not any("certificate" in name for name in values)
    assert values["lumos_round"] == "2.0"
    assert values['lumos_views_percent{node="a"}'] == "40.0"
    assert values['lumos_views_percent{node="b"}'] == "100.0"  # all that it will
    assert values["lumos_bytes_up_total"] == "21.0"
    assert values['lumos_train_replies_total{result="valid"}'] == "2.0"
    assert values['lumos_train_replies_total{result="invalid"}'] == "3.0"
    assert values["lumos_failed_rounds_total"] == "1.0"
    assert values['lumos_quality{metric="ndcg@20",split="test"}'] == "0.25"
    with pytest.raises(OSError, match="refused"):
        opener.open(url, timeout=5)


def test_prometheus_tells_when_certificates_expire(tmp_path):
    [port] = free_ports(1)
    expires = {"server": 1_800_000_000.0, "ca": 2_000_000_000.0}
    CertificateDates(expires=expires).write(tmp_path / "certificates.json")
    with observers.observing(RunConfig(metrics_port=port), tmp_path):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        text = opener.open(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    lines = [line for line in text.splitlines() if line.startswith("lumos_certificate")]
    assert lines == [
        'lumos_certificate_expiry_seconds{certificate="server"} 1.8e+09',
        'lumos_certificate_expiry_seconds{certificate="ca"} 2e+09',
    ]


def test_tensorboard_has_a_curve_per_number(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    observe_all(RunConfig(tracking="tensorboard"), tmp_path)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    curve = [(s.step, round(s.value, 4)) for s in found.Scalars("validation/ndcg@20")]
    assert curve == [(0, 0.1), (1, 0.3), (2, 0.2)]


def test_mlflow_goes_on_in_the_same_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow: pip install mlflow-skinny")
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    observe_all(RunConfig(tracking="mlflow"), tmp_path)
    observe_all(RunConfig(tracking="mlflow"), tmp_path)
    client = mlflow.tracking.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("lumos")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["validation/ndcg_at_20"] == 0.2
    assert run.data.params["rounds"] == "20"


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_tracker_is_named_with_the_command_that_installs_it(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with (
        pytest.raises(ConfigError, match=f"pip install {name}"),
        observers.observing(RunConfig(tracking=name), tmp_path),
    ):
        pass


def test_an_observer_that_fails_does_not_stop_the_run(tmp_path, monkeypatch, caplog):
    from contextlib import contextmanager

    calls = []

    @contextmanager
    def broken(config, run_dir):
        def observe(event):
            calls.append(event)
            raise RuntimeError("disk full")

        yield observe

    monkeypatch.setitem(observers.TRACKERS, "mlflow", broken)
    observe_all(RunConfig(tracking="mlflow"), tmp_path)
    assert len(calls) == 1
    assert "observer mlflow failed" in caplog.text


# ---------------------------------------------------------------- a whole run
def test_logs_and_history_of_a_run_hold_names_and_counts_and_nothing_private(tmp_path, capfd):
    folder = write_nodes(tmp_path)
    config = tiny_config(folder, **{"log-format": "json", "log-level": "debug"})
    facts = {"log-format": "json", "log-level": "debug"}
    grid = InProcessGrid(client, {100 + n: node_context(config, n, **facts) for n in range(2)})
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config.to_flat()
    )
    server(grid, context)
    status = status_of(folder / "run")
    assert (status.state, [n.rounds for n in status.nodes]) == ("completed", [2, 2])
    written = capfd.readouterr().err
    lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    assert {line["logger"] for line in lines} >= {"client_app.client", "lumos_core.runs.observers"}
    assert [e["round"] for e in lines if e.get("event") == "round"] == [1, 2]
    history = (folder / "run" / "history.jsonl").read_text()
    for text in ("u0x", "u1x", "secret thing", '"i1"'):
        assert text not in written + history
