"""Settings, files, commands, children and lines of a local deployment, one by one."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.cli.options import parse_settings
from lumos_core.config import RunConfig
from lumos_core.deployment.local import LocalNode, deploy
from lumos_core.deployment.plan import for_nodes
from lumos_core.deployment.round_lines import RoundLines
from lumos_core.errors import ConfigError, FederationError
from lumos_core.flower import commands
from lumos_core.processes.children import Children, ending_on_signals
from lumos_core.runs.report import CENTRALISED, Row, cells, write_report
from lumos_core.runs.summary import RunSummary


# ---------------------------------------------------------------- settings
def test_settings_go_to_the_run_or_to_the_nodes():
    run, node = parse_settings(["rounds=3", "llm=/a=b/c.gguf", "node.threads = 2"])
    assert run == {"rounds": "3", "llm": "/a=b/c.gguf"}
    assert node == {"threads": "2"}
    assert RunConfig.from_flat(run).rounds == 3


@pytest.mark.parametrize("texts", [["rounds"], ["=3"], ["rounds=1", "rounds=2"]])
def test_malformed_settings(texts):
    with pytest.raises(ConfigError, match="-c '"):
        parse_settings(texts)


def test_by_default_all_nodes_are_waited_for():
    assert (for_nodes({}, 5).min_nodes, for_nodes({}, 5).min_replies) == (5, 2)
    assert (for_nodes({}, 1).min_nodes, for_nodes({}, 1).min_replies) == (1, 1)
    assert for_nodes({"min-nodes": "3"}, 5).min_nodes == 3
    with pytest.raises(ConfigError, match="only 2 nodes"):
        for_nodes({"min-nodes": "3"}, 2)
    chosen = {"nodes": "tag:eu"}  # how many of them these are is known when they have come
    assert [for_nodes(chosen, count).min_nodes for count in (1, 5)] == [1, 2]
    assert for_nodes({**chosen, "min-nodes": "4"}, 5).min_nodes == 4


@pytest.mark.parametrize("command", ["run", "simulate"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-c", "epochs=3"], "unknown key 'epochs'"),
        (["-c", "dropout=x"], "key 'dropout'"),
        (["--method", "magic"], "key 'method'"),
        (["--rounds", "2", "-c", "rounds=3"], "given twice"),
        (["--data", "no/such/folder"], "no such folder"),
        (["-c", "min-nodes=9", "-c", "min-replies=9"], "only 3 nodes"),
    ],
)
def test_mistakes_are_found_before_anything_starts(command, options, message, tmp_path):
    run_dir = tmp_path / "run"
    arguments = [command, *options, "--run-dir", str(run_dir)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert not (run_dir / "logs").exists()


def test_node_settings_are_checked_before_anything_starts(tmp_path):
    options = ["-c", "node.thread=2", "--run-dir", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["run", *options])
    assert "unknown key 'thread'" in str(result.exception)
    result = CliRunner().invoke(app, ["simulate", *options])
    assert "virtual nodes have no configuration" in str(result.exception)


def test_who_starts_a_run_here_has_its_language_model_allowed(tmp_path):
    config = RunConfig(llm="/my/model")
    assert LocalNode("a", tmp_path).in_run(config).llm == "/my/model"
    assert LocalNode("a", tmp_path, {"llm": "/own"}).in_run(config).llm == "/own"
    assert LocalNode("a", tmp_path, {"allowed-llms": ""}).in_run(config).llm == ""


def test_a_folder_with_a_run_in_it_is_left_alone(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(FederationError, match="already holds a run"):
        deploy(RunConfig(), [LocalNode("a", tmp_path)], tmp_path, print)
    assert (tmp_path / "summary.json").read_text() == "{}"


def test_resuming_needs_a_run(tmp_path):
    for options, message in (
        ([], "--resume needs --run-dir"),
        (["--run-dir", str(tmp_path)], "holds no run"),
    ):
        result = CliRunner().invoke(app, ["run", "--resume", *options])
        assert message in str(result.exception)


# ---------------------------------------------------------------- files and environment
def test_the_staged_app_is_accepted_by_flower(tmp_path):
    """``flwr build`` checks the metadata and packs what a run would send to the nodes."""
    folder = commands.stage_app(tmp_path / "app")
    build = subprocess.run(
        [commands.executable("flwr"), "build", "--app", str(folder)],
        cwd=tmp_path,
        env=commands.environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    [bundle] = tmp_path.glob("*.fab")
    listing = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(bundle)], capture_output=True, text=True
    ).stdout
    for name in ("client_app/client.py", "server_app/server.py", "lumos_core/federation/node.py"):
        assert name in listing
    assert "interactions" not in listing.replace("lumos_core/data/interactions.py", "")


def test_the_environment_keeps_flower_quiet_and_local(tmp_path, monkeypatch):
    monkeypatch.setenv("FLWR_SECRET_SETTING", "x")
    monkeypatch.setenv("NO_PROXY", "example.org")
    found = commands.environment(tmp_path, EXTRA="1")
    assert found["FLWR_HOME"] == str(tmp_path)
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert found["NO_PROXY"] == "example.org,127.0.0.1,localhost"
    assert found["EXTRA"] == "1"
    assert "FLWR_SECRET_SETTING" not in found


def test_proxies_that_flower_cannot_speak_to_are_kept_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(commands.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "socks://127.0.0.1:1/")  # as GNOME has it
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("HTTP_PROXY", "proxy:3128")
    found = commands.environment(tmp_path)
    assert "ALL_PROXY" not in found
    assert "all_proxy" not in found
    assert found["https_proxy"] == "http://proxy:3128"
    assert found["HTTP_PROXY"] == "proxy:3128"


def test_socks_is_spoken_where_its_library_is(tmp_path, monkeypatch):
    monkeypatch.setattr(commands.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:1")
    assert commands.environment(tmp_path)["ALL_PROXY"] == "socks5h://127.0.0.1:1"


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "socks://127.0.0.1:1", "127.0.0.1:1"])
def test_flower_s_http_client_goes_straight_to_this_machine(tmp_path, monkeypatch, proxy):
    for name in ("ALL_PROXY", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    code = (
        "import http.server, threading, httpx\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(204); self.end_headers()\n"
        "    def log_message(self, *_): pass\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Answer)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "print(httpx.get(f'http://127.0.0.1:{server.server_port}/').status_code)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=commands.environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stdout == "204\n", found.stderr


def test_a_missing_program_is_an_error_that_says_what_to_do():
    with pytest.raises(FederationError, match="make setup"):
        commands.executable("flower-no-such-program")


def test_ports_differ():
    assert len(set(commands.free_ports(20))) == 20


# ---------------------------------------------------------------- children
FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


def wait_for(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < until, "condition never became true"
        time.sleep(0.02)
    return result


def alive(pids):
    def runs(pid):
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [pid for pid in pids if runs(pid)]


def start(children, code, tmp_path):
    child = children.start("x", [sys.executable, "-c", code], environment=os.environ, cwd=tmp_path)
    wait_for(lambda: "ready" in child.last_lines())
    return child


def test_children_end_with_everything_they_started(tmp_path):
    with Children(tmp_path) as children:
        child = start(children, FAMILY, tmp_path)
        family = [child.process.pid]
        family += [p.pid for p in psutil.Process(child.process.pid).children(recursive=True)]
        assert len(alive(family)) == 2
    assert alive(family) == []


def test_a_stray_whose_parent_is_gone_is_found_by_its_mark(tmp_path):
    with Children(tmp_path) as children:
        child = start(children, FAMILY, tmp_path)
        [stray] = psutil.Process(child.process.pid).children()
        child.process.kill()
        wait_for(lambda: child.exit_code is not None)
        assert alive([stray.pid]) == [stray.pid]
    assert alive([stray.pid]) == []


def test_a_child_that_will_not_end_is_killed(tmp_path):
    children = Children(tmp_path)
    child = start(children, STUBBORN, tmp_path)
    started = time.monotonic()
    children.stop(grace=0.3)
    assert alive([child.process.pid]) == []
    assert time.monotonic() - started < 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds strays in /proc")
def test_all_die_with_a_parent_that_is_killed_outright(tmp_path):
    code = f"""
import os, sys, time
from pathlib import Path
from lumos_core.processes.children import Children
children = Children(Path({str(tmp_path)!r}))
child = children.start("x", [sys.executable, "-c", {FAMILY!r}], environment=os.environ, cwd="/")
while "ready" not in child.last_lines():
    time.sleep(0.02)
print(child.process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        family = [p.pid for p in psutil.Process(parent.pid).children(recursive=True)]
        assert pid in family
        assert len(alive(family)) == 3  # child, its own child in another session, guard
        parent.kill()
    wait_for(lambda: not alive(family), 5)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
def test_signals_become_exceptions_so_that_cleaning_up_happens(number, error):
    before = signal.getsignal(number)

    def wait_to_be_ended():
        with ending_on_signals():
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(error):
        wait_to_be_ended()
    assert signal.getsignal(number) == before


def test_a_program_that_cannot_start(tmp_path):
    with pytest.raises(FederationError, match="cannot start /no/such"):
        Children(tmp_path).start("x", ["/no/such"], environment={}, cwd=tmp_path)


# ---------------------------------------------------------------- lines and report
def event(number, **more):
    return {
        "event": "round", "round": number, "seconds": 2.0, "bytes_up": 1500, "bytes_down": 2500,
        "nodes_ok": 2, "failed": [], "loss": 3.25, **more,
    }  # fmt: skip


def evaluation(number, split="validation", hr=0.125):
    names = ("hr@10", "hr@20", "ndcg@20", "mrr")
    metrics = dict.fromkeys(names, hr)
    return {"event": "evaluation", "round": number, "split": split, "users": 9, **metrics}


def printed(*events):
    console = Console(width=120, force_terminal=False, record=True, file=io.StringIO())
    with RoundLines(console, 3).live() as lines:
        for item in events:
            lines(item)
    return console.export_text().splitlines()


def test_a_round_is_shown_with_the_metrics_of_its_own_model():
    lines = printed(
        evaluation(0, hr=0.01), event(1), evaluation(1, hr=0.25), event(2), evaluation(2, hr=0.5)
    )
    assert [line.split()[:3] for line in lines[1:]] == [
        ["start", "–", "0.0100"],
        ["1", "3.250", "0.2500"],
        ["2", "3.250", "0.5000"],
    ]
    assert lines[2].split()[4:] == ["2.0", "1.5", "kB", "2.5", "kB", "2", "ok"]


@pytest.mark.parametrize(
    ("width", "last"),
    [(40, "NDCG@20"), (50, "seconds"), (65, "nodes"), (90, "nodes")],
)
def test_a_narrow_terminal_has_fewer_columns_and_whole_numbers(width, last):
    console = Console(width=width, force_terminal=True, file=io.StringIO(), color_system=None)
    lines = RoundLines(console, 3)
    for item in (evaluation(0, hr=0.01), event(1), evaluation(1, hr=0.25)):
        lines(item)
    lines._pause()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n")
    shown = [line for line in text.splitlines() if "3.250" in line or "NDCG@20" in line]
    assert shown[0].split()[-1] == last
    assert all(len(line) <= width for line in shown)
    assert "0.2500" in shown[1]


def test_rounds_without_evaluation_and_failures_are_shown():
    failure = [{"node": "node-1", "reason": "no reply [bold]before[/bold] the deadline"}]
    failed = event(2, event="failed-round", loss=None, failed=failure, reason="1 valid replies")
    lines = printed(
        event(1), failed, {"event": "node-lost", "node": "node-1", "log": "a.log"}, event(2)
    )
    assert lines[1].split()[:4] == ["1", "3.250", "–", "–"]
    text = "\n".join(lines)
    assert "node-1: no reply [bold]before[/bold] the deadline" in text
    assert "round failed: 1 valid replies" in text
    assert "node-1 has ended; see a.log" in text
    assert lines[-1].split()[0] == "2"


def test_the_report_compares_with_the_centralised_model(tmp_path):
    metrics = {"hr@10": 0.1, "hr@20": 0.2, "ndcg@20": 0.05, "mrr": 0.03}
    rows = [Row("federated", metrics), Row(CENTRALISED, {**metrics, "hr@20": 0.25})]
    assert [line[-1] for line in cells(rows)] == ["HR@20 of centralised", "80%", "100%"]
    assert [line[-1] for line in cells(rows[:1])][1] == "–"
    history = [evaluation(0), event(1), evaluation(1)]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(e) + "\n" for e in history))
    summary = RunSummary(
        method="fedavg", seed=3, outcome="completed", rounds=1, seconds=9.4,
        best_round=1, bytes_up=1500, bytes_down=2500,
    )  # fmt: skip
    text = write_report(tmp_path, summary, rows).read_text()
    assert "# fedavg, seed 3: completed" in text
    assert "| federated | 0.1000 | 0.2000 | 0.0500 | 0.0300 | 80% |" in text
    assert "| 1 | 3.2500 | 0.1250 | 0.1250 | 2.0 | 1,500 | 2,500 | 2 |" in text
