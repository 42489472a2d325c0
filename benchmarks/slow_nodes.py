"""What one slow node costs the others: seconds a round, with and without rounds that do not wait.

    python benchmarks/slow_nodes.py DATA [--nodes 6] [--rounds 20] [--slower 10] [--seeds 0,1,2]

DATA is a prepared folder; its users are dealt out to the nodes of one process. A training takes
every node one second of a simulated clock, and the last one ten. All ways to close a round have the
same data, start and seeds. "others alone" is a federation without the slow node: the pace that the
others have among themselves. Written are the simulated seconds of a round, which do not depend on
the machine, the rounds whose model has work of the slow node in it, and HR@20 and NDCG@20 over the
users of the nodes that take part.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch

from lumos_core.cli.options import with_overrides
from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.partition import partition_users
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.data.sequences import Sequences
from lumos_core.experiments.jobs import library_versions
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.round_loop import run_federation
from lumos_core.federation.simulated_speeds import SimulatedSpeeds
from lumos_core.learning.title_start import initial_params
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table

METRICS = ("hr@20", "ndcg@20")
RESULTS = Path(__file__).parent / "results" / "slow_nodes.json"


class Way(NamedTuple):
    """A way to close rounds.

    Attributes:
        settings: of the run.
        slow: whether the slow node is there.
    """

    settings: Mapping[str, Any]
    slow: bool = True


WAYS = {
    "all (default)": Way({}),
    "close-at = 0.8": Way({"close_at": 0.8}),
    "mode = async, buffer-size = 5": Way({"mode": "async", "buffer_size": 5}),
    "others alone": Way({}, slow=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; a table goes beside it")
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--slower", type=float, default=10.0, help="how many times as long")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("-c", dest="settings", action="append", metavar="KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = with_overrides(RunConfig(method="fedavg", semantic_start="tfidf"), options.settings)
    catalog, parts = load_prepared(options.data)
    users = Sequences.concat(parts)
    runs = []
    for seed in map(int, options.seeds.split(",")):
        for name, way in WAYS.items():
            config = base.replace(rounds=options.rounds, seed=seed, **way.settings)
            found = _run(config, catalog, users, way, options.nodes, options.slower)
            runs.append({"way": name, **found})
            print(runs[-1]["way"], seed, *(f"{found[key]:.4f}" for key in METRICS), flush=True)
    write_json(options.out, {"versions": library_versions(), "runs": runs})
    table = _table(runs)
    write_atomically(options.out.with_suffix(".md"), table.encode())
    print(table)


def _run(
    config: RunConfig, catalog: Catalog, users: Sequences, way: Way, count: int, slower: float
) -> dict[str, Any]:
    owners = partition_users(len(users), count, config.seed)
    slow = f"node-{count - 1}"
    nodes = [
        Node(f"node-{n}", catalog, users.subset(np.flatnonzero(owners == n)), config)
        for n in range(count if way.slow else count - 1)
    ]
    transport = SimulatedSpeeds(InProcessTransport(nodes), {slow: slower})
    ended: list[float] = []  # the simulated time at the end of each round

    def observe(event: Mapping[str, Any]) -> None:
        if event["event"] == "round":
            ended.append(transport.clock)

    start = initial_params(config, catalog)
    result = run_federation(config, transport, catalog.fingerprint, start, on_event=observe)
    rounds = [event for event in result.events if event["event"] == "round"]
    return {
        "seed": config.seed,
        "nodes": len(nodes),
        "slower": slower,
        "rounds": len(rounds),
        "seconds": ended[-1] / len(rounds),
        "rounds_with_slow_node": sum(slow in event["ok"] for event in rounds),
        **{name: result.test[name] for name in METRICS},
        "config": config.without_paths(),
    }


def _table(runs: list[dict[str, Any]]) -> str:
    """A table of means over seeds."""
    rows = []
    for way in WAYS:
        own = [run for run in runs if run["way"] == way]
        seconds, slow, hr, ndcg = (
            mean(run[key] for run in own) for key in ("seconds", "rounds_with_slow_node", *METRICS)
        )
        rows.append([way, f"{seconds:.2f}", f"{slow:.1f}", f"{hr:.4f}", f"{ndcg:.4f}"])
    header = ("rounds close with", "seconds a round", "rounds with the slow node's work",
              "HR@20", "NDCG@20")  # fmt: skip
    return markdown_table(header, rows, align="l")


if __name__ == "__main__":
    main()
