"""`lumos simulate --ray`: one simulation on two machines (network namespaces, each with a temporary
folder of its own) of a Ray cluster, as docs/engines.md says."""

import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from deployment_support import wait_for, write_prepared
from hosts_support import settings
from namespaces import Network, require_namespaces
from ray_support import RayHosts

from lumos_core.errors import ConfigError, require_extra
from lumos_core.runs.history import read_history

pytestmark = [pytest.mark.integration, pytest.mark.faults]
_TOKEN = "5e" * 32
_REPLY = re.compile(r"ClientAppActor pid=\d+(?:, ip=([\d.]+))?\).* replied kind=train round=(\d+)")


@pytest.fixture(scope="module")
def machines():
    require_namespaces()
    try:
        require_extra("ray", "simulation", "this test")
    except ConfigError as error:
        pytest.skip(str(error))
    if Path(sys.prefix).is_relative_to(Path(tempfile.gettempdir()).resolve()):
        pytest.skip("machines have temporary folders of their own, and LUMOS is in the one of here")
    # not pytest's own folder: paths of Ray's sockets have to be short
    place = Path(tempfile.mkdtemp(prefix="lumos-ray-"))
    with Network("one", "two") as network:
        hosts = RayHosts(network, place)
        for host in network.hosts:
            hosts.start_ray(host, token=_TOKEN)
        yield hosts
    shutil.rmtree(place, ignore_errors=True)


def test_the_nodes_of_a_simulation_run_on_two_machines(machines):
    data = write_prepared(machines.shared / "data", nodes=4)
    runs = {"two-machines": f"--ray {machines.address}", "here": "--engine in-process"}
    events = {}
    for name, engine in runs.items():
        done = machines.lumos(
            "one",
            f"simulate --data {data} --run-dir {name} --rounds 3 --no-baselines {engine}",
            *settings(method="lumos", views="tfidf"),  # views are in files that both machines open
            token=_TOKEN,
        )
        assert done.returncode == 0, done.stdout
        events[name] = read_history(machines.shared / name / "history.jsonl")
        if name == "two-machines":
            assert (
                "2 machines, ClientApps at a time: 2 – 10.77.0.1 (1), 10.77.0.2 (1)" in done.stdout
            )
    log = (machines.shared / "two-machines" / "logs" / "server.log").read_text()
    # what a machine logs last may not arrive, so the last round is left out
    where = Counter(ip or "10.77.0.1" for ip, number in _REPLY.findall(log) if int(number) < 3)
    assert where.total() == 4 * 2  # every node in every round
    assert set(where) == {"10.77.0.1", "10.77.0.2"}, where
    # the machines change nothing in what is computed
    scores = {
        name: [e["ndcg@20"] for e in found if e["event"] == "evaluation"]
        for name, found in events.items()
    }
    assert len(scores["here"]) == 5  # rounds 0 to 3, and the test
    assert scores["two-machines"] == pytest.approx(scores["here"], abs=1e-4)
    assert not list(data.glob(".lumos-ray-*"))
    for host in machines.network.hosts:  # the cluster is as it was before
        wait_for(lambda host=host: not machines.client_apps(host), 30)


def test_a_machine_that_does_not_see_the_data_is_named_before_the_run(machines):
    own = Path(tempfile.gettempdir()) / "mine"  # on machine one alone
    write_prepared(machines.own("one") / "mine", nodes=2)
    done = machines.lumos(
        "one",
        f"simulate --data {own} --run-dir refused --no-baselines --ray {machines.address}",
        token=_TOKEN,
    )
    assert done.returncode == 1
    assert f"10.77.0.2: does not see this machine's {own}" in done.stdout
    assert "10.77.0.1:" not in done.stdout.partition("not every machine")[2]
    assert not (machines.shared / "refused").exists()


def test_who_does_not_know_the_clusters_token_cannot_join(machines):
    data = write_prepared(machines.shared / "other", nodes=2)
    done = machines.lumos(
        "one",
        f"simulate --data {data} --run-dir stranger --no-baselines --ray {machines.address}",
        token="00" * 32,
    )
    assert done.returncode == 1
    assert "the cluster cannot be joined" in done.stdout
    assert not (machines.shared / "stranger").exists()


def test_a_machine_that_dies_fails_the_run_which_the_others_resume(machines):
    """Flower gives messages to the dead machine's ClientApp again and again. Last: it ends one."""
    data = write_prepared(machines.shared / "lost", nodes=4)
    command = f"simulate --data {data} --run-dir lost-run --no-baselines --ray {machines.address}"
    network, log = machines.network, machines.place / "lost.txt"
    argv = machines.command("one", f"{command} --rounds 60", *settings(), token=_TOKEN)
    run = network.start("one", argv, Path("/"), log)
    history = machines.shared / "lost-run" / "history.jsonl"
    wait_for(lambda: len(rounds(history)) >= 2 or run.poll() is not None, 150)
    assert run.poll() is None, log.read_text()
    machines.kill("two")
    assert run.wait(120) == 1
    assert "error 'flower-0'" in log.read_text()
    done = len(rounds(history))
    assert done < 60
    more = machines.lumos(
        "one", f"{command} --resume --rounds {done + 2}", *settings(),
        token=_TOKEN,
    )  # fmt: skip
    assert more.returncode == 1, more.stdout  # it has failed rounds
    assert "1 machine, ClientApps at a time: 1 – 10.77.0.1 (1)" in more.stdout
    assert rounds(history) == list(range(1, done + 3))
    last = [e for e in read_history(history) if e["event"] == "round"][-1]
    assert last["nodes_ok"] == 4


def rounds(history: Path) -> list[int]:
    """Those that have completed."""
    events = read_history(history) if history.exists() else []
    return [e["round"] for e in events if e["event"] == "round"]
