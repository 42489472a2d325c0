"""Nodes whose clocks are wrong: a little is borne, more is refused with a reason that says so."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from deployment_support import wait_for
from hosts_support import Deployment
from namespaces import Network, require_namespaces

pytestmark = [pytest.mark.integration, pytest.mark.faults]


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """A library that shifts the clock of whoever is started with it."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("needs a C compiler, for a library that shifts a program's clock")
    library = tmp_path / "wrong_clock.so"
    source = Path(__file__).with_name("wrong_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.timeout(400)
def test_a_node_whose_clock_is_wrong(tmp_path: Path, shim: Path) -> None:
    require_namespaces()
    with Network("server", "one", "two") as network:
        deployment = Deployment(network, tmp_path)

        def start(host: str, node: str, wrong_by: int) -> "subprocess.Popen[bytes]":
            clock = ["env", f"LD_PRELOAD={shim}", f"WRONG_BY={wrong_by}"]
            argv = [*clock, *deployment.argv(f"node start {node} --data data")]
            return network.start(host, argv, deployment.home(host), deployment.log(host))

        server = deployment.start_server(2)
        wait_for(deployment.serving, 90)
        behind = start("one", "node-0", -200)  # Flower bears five minutes
        ahead = start("two", "node-1", 60)  # and five seconds
        wait_for(lambda: deployment.says("one", "connected as node"), 60)
        wait_for(lambda: deployment.says("two", "this machine's clock"), 60)
        assert not deployment.says("two", "connected as node")
        ahead.send_signal(signal.SIGINT)
        assert ahead.wait(60) == 130

        mended = start("two", "node-1", 0)
        assert server.wait(200) == 0, deployment.log("server").read_text()
        summary = json.loads((deployment.home("server") / "server/run/summary.json").read_text())
        assert (summary["outcome"], summary["rounds"]) == ("completed", 2)
        history = (deployment.home("server") / "server/run/history.jsonl").read_text()
        events = [json.loads(line) for line in history.splitlines()]
        assert all(e["nodes_ok"] == 2 for e in events if e["event"] == "round")
        for node in (behind, mended):
            node.send_signal(signal.SIGINT)
            assert node.wait(60) == 130
