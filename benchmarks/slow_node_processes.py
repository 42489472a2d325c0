"""What one slow node costs the others with real processes: seconds a round, before and after.

    python benchmarks/slow_node_processes.py [--quick 2] [--slower 10] [--rounds 4] [--out FILE]

One run of four nodes, each with its own SuperNode and processes, over gRPC. A training takes a node
``--quick`` seconds, in which it sleeps, and node-3 ten times as long. The run waits for all in its
first rounds; then it is resumed with ``close-at = 0.75``. A second run has ``mode = async`` from
its beginning, and so many more rounds that work of the slow node arrives in them: how many rounds
late it was is its staleness s, and it counts 1/√(1+s) of itself. A third run has no slow node: its
pace is what the others have among themselves. The first round of a server, which waits for the
nodes, is left out. Processes cost the time of this machine, so that seconds differ between
machines; what a slow node adds to them does not.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from lumos_core.config import RunConfig
from lumos_core.experiments.jobs import library_versions
from lumos_core.runs.history import Event, read_history
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from deployment_support import deploying, write_prepared
from slow_node import slow_app

RESULTS = Path(__file__).parent / "results" / "slow_node_processes.json"
NODES, SLOW = 4, "node-3"
CONFIG = RunConfig(
    method="fedavg", semantic_start="none", dim=8, heads=1, layers=1, local_epochs=1,
    min_nodes=NODES, min_replies=2, start_timeout=120.0, round_timeout=300.0,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; a table goes beside it")
    parser.add_argument("--quick", type=float, default=2.0, help="seconds of a training")
    parser.add_argument("--slower", type=float, default=10.0, help="how many times as long")
    parser.add_argument("--rounds", type=int, default=4, help="in each of the ways")
    options = parser.parse_args()
    quick, rounds = options.quick, options.rounds + 1  # the first one is left out
    speeds = {f"node-{n}": quick for n in range(NODES)}
    slow = {**speeds, SLOW: quick * options.slower}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = write_prepared(place / "data", nodes=NODES)
        config = CONFIG.replace(catalog=str(data / "catalog.tsv"), rounds=rounds)
        with_slow, alike = slow_app(place / "slow", slow), slow_app(place / "alike", speeds)
        before = _run(with_slow, data, config, place / "run")
        rows.append(_row("all (default)", before))
        closing = config.replace(rounds=2 * rounds, close_at=0.75)
        after = _run(with_slow, data, closing, place / "run", resume=True)[rounds:]
        rows.append(_row("the same run, resumed with close-at = 0.75", after))
        # a round takes the others --quick seconds at least
        buffered = config.replace(mode="async", buffer_size=3, rounds=round(1.5 * options.slower))
        late = _run(with_slow, data, buffered, place / "async")
        rows.append(_row("mode = async, buffer-size = 3", late))
        rows.append(_row("no slow node", _run(alike, data, config, place / "alone")))
    facts = {"quick": quick, "slower": options.slower, "load": os.getloadavg()[0]}
    write_json(options.out, {"versions": library_versions(), **facts, "ways": rows})
    table = markdown_table(
        (
            "rounds close with",
            "seconds a round",
            "rounds",
            "of these with node-3's work",
            "staleness of that work",
        ),
        [
            [
                r["way"],
                f"{r['seconds']:.1f}",
                str(r["rounds"]),
                str(r["rounds_with_slow_node"]),
                ", ".join(map(str, r["staleness"])) or "–",
            ]
            for r in rows
        ],
        align="l",
    )
    write_atomically(options.out.with_suffix(".md"), table.encode())
    print(table)


def _run(
    app: Path, data: Path, config: RunConfig, run_dir: Path, resume: bool = False
) -> list[Event]:
    """All rounds of a run, those before it was resumed included."""
    argv = deploying(app, data, config, NODES, run_dir, resume=resume)
    done = subprocess.run(
        argv, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stdout)
    return [e for e in read_history(run_dir / "history.jsonl") if e["event"] == "round"]


def _row(way: str, rounds: list[Event]) -> dict[str, Any]:
    counted = rounds[1:]
    row = {
        "way": way,
        "rounds": len(counted),
        "seconds": mean(event["seconds"] for event in counted),
        "rounds_with_slow_node": sum(SLOW in event["ok"] for event in counted),
        "staleness": [
            event["staleness"][SLOW] for event in counted if SLOW in event.get("staleness", {})
        ],
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
