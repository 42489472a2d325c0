"""What differential privacy costs: test HR@20 against ε, on the bundled sample.

Three federations of the same users: 8 nodes with node-level noise (central), 236 nodes of three
users with the same noise, and 8 nodes with user-level noise (DP-SGD in every node). Each runs
without privacy and with several noise multipliers; the untrained model is measured for comparison.
Finished runs are stored and not repeated.

    python benchmarks/privacy_utility.py --out docs/results/privacy --seeds 0,1,2
    python benchmarks/privacy_utility.py --method fedavg-plus --runs runs/privacy-plus
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lumos_core.config import RunConfig, Scalar
from lumos_core.experiments.comparison.compare import VariantRun
from lumos_core.experiments.jobs import library_versions, run_jobs
from lumos_core.experiments.results_file import Result, ResultsFile
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table, spread

BASE: dict[str, Scalar] = {
    "weighting": "uniform",
    "aggregation": "mean",
    "clip": "none",
    "max-weight-ratio": 10.0,
}
PLAIN = "no privacy"
FEDERATIONS: dict[str, tuple[int, dict[str, Scalar], tuple[float, ...]]] = {
    "8 nodes, node-level": (8, {"dp": "central"}, (0.0, 1.0, 4.0)),
    "236 nodes, node-level": (236, {"dp": "central"}, (1.0, 4.0)),
    "8 nodes, user-level": (8, {"dp": "user"}, (0.5, 2.0)),
}
"""Nodes, what is set, noise multipliers (0: clipping alone)."""


def jobs(
    name: str, data: Path, seeds: Sequence[int], base: Mapping[str, Scalar], delta: float
) -> list[VariantRun]:
    """All runs of a federation, seed by seed."""
    nodes, changes, multipliers = FEDERATIONS[name]
    folder = data / f"{nodes}-nodes"
    planned = []
    for seed in seeds:
        common = {**base, "seed": seed}
        planned.append(VariantRun(folder, RunConfig.from_flat(common), PLAIN))
        for z in multipliers:
            noisy = {**common, **changes, "dp-noise-multiplier": z, "dp-delta": delta}
            planned.append(VariantRun(folder, RunConfig.from_flat(noisy), f"z = {z:g}"))
    return planned


def untrained(folder: Path, config: RunConfig) -> float:
    """Test HR@20 of the model that this run starts from, with the titles' weight chosen as the run
    chooses it."""
    from lumos_core.data import LeaveOneOut, Sequences
    from lumos_core.data.prepared_folder import load_prepared
    from lumos_core.learning.evaluation import best_weight, evaluate
    from lumos_core.learning.metrics import means
    from lumos_core.learning.model import new_model, set_params
    from lumos_core.learning.title_nearness import TitleNearness
    from lumos_core.learning.title_start import initial_params

    catalog, nodes = load_prepared(folder)
    model = new_model(config, len(catalog))
    set_params(model, initial_params(config, catalog))
    titles = TitleNearness.of(catalog) if any(config.title_weights) else None
    split = LeaveOneOut(Sequences.concat(nodes))
    weight = best_weight(evaluate(model, *split.validation(), titles, config.title_weights))
    return means(evaluate(model, *split.test(), titles, (weight,))[weight])["hr@20"]


def summarise(seeds: Sequence[int], results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row per federation and noise: ε, mean and spread of HR@20 over seeds."""
    by_key = {(r["nodes"], r["config"]["dp"], r["variant"], r["seed"]): r for r in results}
    rows = []
    for name, (nodes, changes, multipliers) in FEDERATIONS.items():
        for variant in (PLAIN, *(f"z = {z:g}" for z in multipliers)):
            dp = "none" if variant == PLAIN else changes["dp"]
            group = [by_key[nodes, dp, variant, s] for s in seeds]
            found = [r["test"]["hr@20"] for r in group]
            rows.append(
                {
                    "federation": name,
                    "noise": variant,
                    "epsilon": max((r["epsilon"] for r in group if r["epsilon"]), default=None),
                    "seeds": list(seeds),
                    "hr@20": found,
                    "hr@20_mean": mean(found),
                    "hr@20_stdev": stdev(found) if len(found) > 1 else 0.0,
                    "best_rounds": [r["best_round"] for r in group],
                }
            )
    return rows


def table(rows: Sequence[dict[str, Any]], start: float) -> str:
    """The rows as Markdown."""
    cells = [
        [
            row["federation"],
            row["noise"],
            "∞" if row["epsilon"] is None else f"{row['epsilon']:.3g}",
            spread(row["hr@20"], "{:.4f}"),
            ", ".join(map(str, row["best_rounds"])),
        ]
        for row in rows
    ]
    cells.append(["any", "the untrained start", "0", f"{start:.4f}", "–"])
    return markdown_table(("federation", "noise", "ε", "HR@20", "best round"), cells, align="llr")


def plot(rows: Sequence[dict[str, Any]], start: float, path: Path) -> None:
    """Plot HR@20 against ε, one line per federation; dashed: without privacy."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for number, name in enumerate(FEDERATIONS):
        color = plt.get_cmap("tab10")(number)
        group = [r for r in rows if r["federation"] == name]
        noisy = sorted((r for r in group if r["epsilon"] is not None), key=lambda r: r["epsilon"])
        axis.errorbar(
            [r["epsilon"] for r in noisy],
            [r["hr@20_mean"] for r in noisy],
            yerr=[r["hr@20_stdev"] for r in noisy],
            color=color, marker="o", capsize=3, label=name,
        )  # fmt: skip
        plain = next(r for r in group if r["noise"] == PLAIN)
        axis.axhline(plain["hr@20_mean"], color=color, linestyle="--", linewidth=1)
    axis.axhline(start, color="black", linestyle=":", linewidth=1.3, label="untrained start")
    axis.set(xscale="log", xlabel="ε (smaller is more private)", ylabel="test HR@20")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results/privacy"))
    parser.add_argument("--runs", type=Path, default=Path("runs/privacy"), help="data and runs")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--delta", type=float, default=1e-4)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--method", choices=("fedavg", "fedavg-plus"), default="fedavg")
    args = parser.parse_args()
    from lumos_core.data.prepare import prepare
    from lumos_core.data.sample import bundled_sample

    for nodes in sorted({nodes for nodes, _, _ in FEDERATIONS.values()}):
        prepare(bundled_sample(), args.runs / "data" / f"{nodes}-nodes", nodes=nodes, seed=0)
    seeds = [int(seed) for seed in args.seeds.split(",")]

    def say(result: Result, found: bool) -> None:
        print(
            result["nodes"], result["config"]["dp"], result["variant"], result["seed"],
            f"{result['test']['hr@20']:.4f}", result["epsilon"], f"{result['seconds']} s",
            flush=True,
        )  # fmt: skip

    shared = {**BASE, "method": args.method, "rounds": args.rounds}
    base = RunConfig.from_flat(shared)
    results = []
    for name in FEDERATIONS:
        planned = jobs(name, args.runs / "data", seeds, shared, args.delta)
        kept = ResultsFile(args.runs / name.replace(", ", "-").replace(" ", "-"), base)
        results += run_jobs(planned, kept, args.jobs, say)
    folder = args.runs / "data" / "8-nodes"
    start = mean(untrained(folder, base.replace(seed=seed)) for seed in seeds)
    rows = summarise(sorted(seeds), results)
    head = (
        f"`python benchmarks/privacy_utility.py --method {args.method} --seeds {args.seeds} "
        f"--rounds {args.rounds}`: bundled sample, with the semantic start, δ = {args.delta:g}, "
        f"dp-clip = {RunConfig().dp_clip:g}.\n\n"
    )
    config = base.replace(seed=seeds[0]).without_paths()
    facts = {"start": start, "delta": args.delta, "config": config}
    out = args.out / ("utility" if args.method == "fedavg" else f"utility_{args.method}")
    found = {**facts, "versions": library_versions(), "rows": rows}
    write_json(out.with_suffix(".json"), found)
    write_atomically(out.with_suffix(".md"), (head + table(rows, start)).encode())
    plot(rows, start, out.with_suffix(".png"))
    print(table(rows, start))


if __name__ == "__main__":
    main()
