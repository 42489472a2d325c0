"""Rounds that a warm start saves: the bundled sample, a day later.

Yesterday's run trained on every history without its newest items; today's trains on all of them,
once from a new model and once from yesterday's best. Both are evaluated on the same targets, which
neither has trained on. Nodes work in this process, and views are left out (``fedavg-plus`` with
title vectors by TF-IDF), as only the start is compared.

    python benchmarks/warm_start.py [--rounds N] [--newest N] [--seeds 0,1,2] [--out FILE.json]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.safe_files import write_json
from lumos_core.terminal.tables import markdown_table

METRIC = "ndcg@20"


def sample(folder: Path) -> tuple[Catalog, list[Sequences]]:
    """The bundled sample as three nodes."""
    from lumos_core.data.prepared_folder import load_prepared

    prepare = [sys.executable, "-m", "lumos_core", "prepare", "sample", "--nodes", "3"]
    subprocess.run([*prepare, "--out", str(folder)], check=True, stdout=subprocess.DEVNULL)
    catalog, sequences = load_prepared(folder)
    return catalog, list(sequences)


def yesterday(users: Sequences, newest: int) -> Sequences:
    """Histories without their newest items; users who had fewer than three by then are new."""
    old = [u for u in range(len(users)) if len(users[u]) >= 3 + newest]
    return users.subset(old).without_last(newest)


def curve(config: RunConfig, catalog: Catalog, shops: list[Sequences], **rest: Any) -> list[float]:
    """The metric on validation targets of the model after each round, from round 0 on."""
    from lumos_core import simulate

    found = simulate(config, catalog, shops, **rest)
    told = (e for e in found.events if e["event"] == "evaluation" and e["split"] == "validation")
    return [event[METRIC] for event in sorted(told, key=lambda event: event["round"])]


def first_at(values: list[float], goal: float) -> int | None:
    """The first round whose model reaches a goal."""
    return next((number for number, value in enumerate(values) if value >= goal), None)


def measure(seed: int, options: argparse.Namespace, catalog: Catalog, shops: Any) -> dict[str, Any]:
    """Both curves of one seed, and the rounds that each takes to the best of the cold one."""
    config = RunConfig(
        method="fedavg-plus", semantic_start="tfidf", rounds=options.rounds, seed=seed
    )
    with tempfile.TemporaryDirectory() as place:
        before = [yesterday(users, options.newest) for users in shops]
        curve(config, catalog, before, run_dir=Path(place) / "run")
        cold = curve(config, catalog, shops)
        warm = curve(config, catalog, shops, start=Path(place) / "run")
    goal = max(cold)
    print(f"seed {seed}: cold {cold}\n        warm {warm}", flush=True)
    return {
        "seed": seed, "cold": cold, "warm": warm, "goal": goal,
        "rounds_cold": first_at(cold, goal), "rounds_warm": first_at(warm, goal),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--newest", type=int, default=2)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        catalog, shops = sample(Path(temporary) / "data")
        rows = [measure(int(s), options, catalog, shops) for s in options.seeds.split(",")]
    rounds = range(options.rounds + 1)
    table = [
        [name, *(f"{mean(row[name][r] for row in rows):.4f}" for r in rounds)]
        for name in ("cold", "warm")
    ]
    print(markdown_table(["start", *(f"round {r}" for r in rounds)], table))
    if options.out:
        settings = {"rounds": options.rounds, "newest": options.newest, "metric": METRIC}
        write_json(options.out, {**settings, "rows": rows})


if __name__ == "__main__":
    main()
