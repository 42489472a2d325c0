"""A machine that is ten times slower than two cores: everything takes its time, nothing is started
twice, and the run completes."""

import json
import time

import psutil
import pytest
from cpu_quota import slow_machine
from deployment_support import command, named, start, write_prepared

from lumos_core.flower.live_superexec import PLACES
from lumos_core.runs.history import read_history

pytestmark = [pytest.mark.integration, pytest.mark.faults]

CORES = 0.2


class Seen:
    """The ClientApps that were seen: all, by node, and the most of one node at a time."""

    def __init__(self) -> None:
        self.started: dict[str, set[str]] = {}
        self.most = 0

    def look(self, pid: int) -> None:
        at_work: dict[str, int] = {}
        for process in named(pid, "flwr-clientapp"):
            try:
                line = process.cmdline()
                node = line[line.index("--runtime-api-address") + 1]  # each node has its own
            except (psutil.Error, ValueError, IndexError):
                continue
            self.started.setdefault(node, set()).add(line[line.index("--token") + 1])
            at_work[node] = at_work.get(node, 0) + 1
        self.most = max([self.most, *at_work.values()])


@pytest.mark.timeout(1500)
def test_a_run_completes_on_a_slow_machine(tmp_path):
    data, run_dir = write_prepared(tmp_path / "data"), tmp_path / "run"
    argv = command(
        "run", data, run_dir, rounds=2, start_timeout="900", round_timeout="900"
    )  # fmt: skip
    seen = Seen()
    with slow_machine(CORES) as machine, start(machine.command(argv), tmp_path) as cli:
        begin = time.monotonic()
        while cli.poll() is None and time.monotonic() < begin + 1400:
            seen.look(cli.pid)
            time.sleep(0.2)
        cli.kill()
        output, _ = cli.communicate()
        print(f"\n{time.monotonic() - begin:.0f} s, throttled {machine.throttled} times")
        assert machine.throttled > 100
    assert cli.returncode == 0, output
    rounds = [e for e in read_history(run_dir / "history.jsonl") if e["event"] == "round"]
    assert [e["nodes_ok"] for e in rounds] == [2, 2]
    assert all(not e["failed"] for e in rounds)
    replies = [
        len((data / f"node-{n}/state/ledger.jsonl").read_text().splitlines()) for n in range(2)
    ]
    assert json.loads((run_dir / "summary.json").read_text())["outcome"] == "completed"
    assert len(seen.started) == 2
    started = sorted(map(len, seen.started.values()))
    for starts, answers in zip(started, sorted(replies), strict=True):
        assert starts <= answers  # none was started twice
    assert 1 <= seen.most <= PLACES
