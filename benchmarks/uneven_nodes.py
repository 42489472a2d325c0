"""The cost of bounds on single nodes, when nobody attacks and nodes differ much in size.

    python benchmarks/uneven_nodes.py DATA [--nodes 12] [--rounds 8] [--seeds 0,1,2] [--out FILE]

Distributes the users of a prepared folder so that the size of node n is proportional to
1 / (n + 1), trains with each set of bounds (`DEFENCES` in
`lumos_core/experiments/poisoning/defences.py`), and writes HR@20 and NDCG@20 of every run, and a
table of their means. Runs whose results are in the file are not repeated.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from lumos_core.cli.options import with_overrides
from lumos_core.config import RunConfig
from lumos_core.data.partition import partition_users
from lumos_core.experiments.jobs import library_versions
from lumos_core.experiments.poisoning.bench import Ground
from lumos_core.experiments.poisoning.defences import method_config
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.round_loop import run_federation
from lumos_core.learning.title_start import initial_params
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table
from lumos_core.views.view import Views, ViewSource

METHODS = ("lumos", "fedavg")
BOUNDS = (
    "none", "weights", "loose-bounds", "tight-clips", "tight-bounds", "median-encoder",
)  # fmt: skip
METRICS = ("hr@20", "ndcg@20")
RESULTS = Path(__file__).parent / "results" / "uneven_nodes.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; a table goes beside it")
    parser.add_argument("--nodes", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("-c", dest="settings", action="append", metavar="KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = with_overrides(RunConfig(), options.settings).replace(
        rounds=options.rounds, min_nodes=options.nodes, min_replies=1
    )
    runs = _kept(options.out)
    done = {(r["method"], r["bounds"], r["seed"]) for r in runs}
    for seed in map(int, options.seeds.split(",")):
        for method in METHODS:
            for bounds in BOUNDS:
                if (method, bounds, seed) not in done:
                    config = method_config(f"{method}:{bounds}", base.replace(seed=seed))
                    runs.append({"bounds": bounds, **_run(options.data, config, options.nodes)})
                    write_json(options.out, {"versions": library_versions(), "runs": runs})
    table = _table(runs)
    write_atomically(options.out.with_suffix(".md"), table.encode())
    print(table)


def _run(data: Path, config: RunConfig, count: int) -> dict[str, Any]:
    ground = Ground.of(data, config)
    owners = partition_users(len(ground.users), count, config.seed, "skewed")
    nodes = [_node(ground, config, n, np.flatnonzero(owners == n)) for n in range(count)]
    start = initial_params(config, ground.catalog)
    found = run_federation(config, InProcessTransport(nodes), ground.catalog.fingerprint, start)
    return {
        "method": config.method,
        "seed": config.seed,
        "users": np.bincount(owners).tolist(),
        "best_round": found.best_round,
        **{name: found.test[name] for name in METRICS},
        "config": config.without_paths(),
    }


def _node(ground: Ground, config: RunConfig, number: int, own: np.ndarray) -> Node:
    views = {i: ground.views[u] for i, u in enumerate(own.tolist()) if u in ground.views}
    users = ground.users.subset(own)
    return Node(f"node-{number:02}", ground.catalog, users, config, _given(views))


def _given(views: Views) -> ViewSource:
    return lambda histories: views


def _kept(path: Path) -> list[dict[str, Any]]:
    """The runs in an existing file."""
    try:
        runs: list[dict[str, Any]] = json.loads(path.read_text())["runs"]
    except FileNotFoundError:
        return []
    return runs


def _table(runs: list[dict[str, Any]]) -> str:
    """A table of means over seeds, and their differences to runs without bounds."""
    rows = []
    for method in METHODS:
        free = _mean(runs, method, "none", "hr@20")
        for bounds in BOUNDS:
            hr, ndcg = (_mean(runs, method, bounds, name) for name in METRICS)
            rows.append([method, bounds, f"{hr:.4f}", f"{ndcg:.4f}", f"{hr / free - 1:+.1%}"])
    header = ("method", "bounds", "HR@20", "NDCG@20", "HR@20 against none")
    return markdown_table(header, rows, align="l")


def _mean(runs: list[dict[str, Any]], method: str, bounds: str, metric: str) -> float:
    return mean(r[metric] for r in runs if (r["method"], r["bounds"]) == (method, bounds))


if __name__ == "__main__":
    main()
