"""What dies is started again, what is cut off comes back, and the run goes on: one federation on
three hosts (network namespaces) that suffers one fault after another."""

import json
import shutil
import signal

import pytest
from deployment_support import named, wait_for
from hosts_support import Deployment
from namespaces import Network, require_namespaces

from lumos_core.runs.history import read_history

pytestmark = [pytest.mark.integration, pytest.mark.faults]

ROUND_SECONDS = 60  # a round takes 3 on two idle cores
PATIENT = {"round_timeout": str(ROUND_SECONDS), "min_replies": "1"}


def rounds(deployment):
    path = deployment.home("server") / "server/run/history.jsonl"
    if not path.exists():
        return []
    return [e for e in read_history(path) if e["event"] == "round"]


def wait_for_round(deployment, nodes=None, seconds=300):
    """A round after the last one, with this many nodes in it."""
    last = len(rounds(deployment))

    def found():
        new = rounds(deployment)[last:]
        return [e for e in new if nodes is None or e["nodes_ok"] == nodes]

    return wait_for(found, seconds)[0]


def kill(process, program):
    """SIGKILL the newest descendant that runs a program."""
    wait_for(lambda: named(process.pid, program), 60)[-1].kill()


def times_said(deployment, host, text):
    return deployment.log(host).read_text().count(text)


@pytest.fixture
def deployment(tmp_path):
    require_namespaces()
    with Network("server", "one", "two") as network:
        yield Deployment(network, tmp_path)


@pytest.mark.timeout(1500)
def test_a_run_survives_one_fault_after_another(deployment):
    server = deployment.start_server(2000, **PATIENT)
    wait_for(deployment.serving, 90)
    one = deployment.start("one", "node start node-0 --data data")
    two = deployment.start("two", "node start node-1 --data data")
    wait_for_round(deployment, nodes=2)

    # ServerApp: submitted again, on the same SuperLink
    kill(server, "flwr-serverapp")
    wait_for(lambda: deployment.says("server", "submitting it again"), 60)
    wait_for_round(deployment, nodes=2)
    assert times_said(deployment, "server", "serving on") == 1

    # SuperExec: started again alone
    kill(server, "flower-superexec")
    wait_for(lambda: deployment.says("server", "starting the SuperExec again"), 60)
    wait_for_round(deployment, nodes=2)
    assert times_said(deployment, "server", "serving on") == 1

    # SuperLink: everything started again, nodes keep their ids and come back
    kill(server, "flower-superlink")
    wait_for(lambda: times_said(deployment, "server", "serving on") == 2, 90)
    wait_for_round(deployment, nodes=2)

    # Link: rounds go on without the node, and with it once the cable is in again
    deployment.network.plug("two", up=False)
    alone = wait_for_round(deployment, nodes=1)
    assert alone["seconds"] < ROUND_SECONDS + 20
    deployment.network.plug("two")
    wait_for_round(deployment, nodes=2)

    # SuperNode: its key is refused for a while, and then it is there again
    kill(one, "flower-supernode")
    hit = wait_for_round(deployment)  # without the node, or with it if it had no work yet
    assert hit["seconds"] < ROUND_SECONDS + 20
    wait_for(lambda: times_said(deployment, "one", "connected as node") == 2, 120)
    wait_for_round(deployment, nodes=2)
    ids = {line.split()[-1] for line in deployment.log("one").read_text().splitlines()
           if "connected as node" in line}  # fmt: skip
    assert len(ids) == 1  # of the same key, the same id

    # The same key from two machines: the second is refused, the first stays
    shutil.copytree(deployment.home("one") / "node-0", deployment.home("two") / "copy")
    copied = deployment.home("two") / "copied"
    shutil.copytree(deployment.home("two") / "data", copied, ignore=shutil.ignore_patterns("state"))
    log = deployment.home("two") / "copy.txt"
    argv = deployment.argv("node start copy --data copied")
    twin = deployment.network.start("two", argv, deployment.home("two"), log)
    wait_for(lambda: "refuses this node's key" in log.read_text(), 60)
    assert "connected as node" not in log.read_text()
    twin.send_signal(signal.SIGINT)
    twin.wait(30)
    wait_for_round(deployment, nodes=2)
    numbers = [event["round"] for event in rounds(deployment)]
    assert numbers == list(range(1, len(numbers) + 1))  # none is missing, none came twice
    for process in (server, one, two):
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_an_interrupted_server_goes_on_by_the_same_command(deployment):
    server = deployment.start_server(2000)
    wait_for(deployment.serving, 90)
    one = deployment.start("one", "node start node-0 --data data")
    two = deployment.start("two", "node start node-1 --data data")
    wait_for_round(deployment, nodes=2)
    server.send_signal(signal.SIGINT)
    assert server.wait(60) == 130
    done = rounds(deployment)[-1]["round"]
    server = deployment.start_server(done + 1)
    assert server.wait(300) == 0, deployment.log("server").read_text()
    for node in (one, two):
        node.send_signal(signal.SIGINT)
        assert node.wait(60) == 130
    summary = json.loads((deployment.home("server") / "server/run/summary.json").read_text())
    assert (summary["outcome"], summary["rounds"]) == ("completed", done + 1)
    assert [event["round"] for event in rounds(deployment)] == list(range(1, done + 2))
