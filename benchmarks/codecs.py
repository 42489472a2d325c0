"""What compressing deltas saves and costs: bytes that a node sends per round, and test HR@20.

It runs the same federation with every codec and several seeds; differences are paired by seed.
Bytes are those of the arrays as Flower serialises them (including names and ``.npy`` headers).
Finished runs are stored and not repeated.

    python benchmarks/codecs.py DATA_FOLDER --out benchmarks/results --seeds 0,1,2
    python benchmarks/codecs.py DATA_FOLDER --method fedavg-plus --runs runs/codecs-plus
"""

import argparse
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lumos_core.config import RunConfig, Scalar
from lumos_core.experiments.comparison.compare import VariantRun
from lumos_core.experiments.jobs import run_jobs
from lumos_core.experiments.results_file import Result, ResultsFile
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table

# Without bounds: clipping reacts to what a codec leaves out, and would blur the comparison.
BASE: dict[str, Scalar] = {
    "aggregation": "mean",
    "clip": "none",
    "max-weight-ratio": 10.0,
}
FEEDBACK: dict[str, Scalar] = {"error-feedback": True}
CODECS: dict[str, dict[str, Scalar]] = {
    "float32": {},
    "float16": {"delta-codec": "float16"},
    "int8": {"delta-codec": "int8"},
    "int8, feedback": {"delta-codec": "int8", **FEEDBACK},
    "top-rows 25 %": {"delta-codec": "top-rows"},
    "top-rows 25 %, feedback": {"delta-codec": "top-rows", **FEEDBACK},
    "top-rows-int8 25 %, feedback": {"delta-codec": "top-rows-int8", **FEEDBACK},
}
REFERENCE = "float32"


def message_bytes(config: RunConfig, items: int) -> int:
    """Size of the arrays of one train reply, as they are sent."""
    import numpy as np

    from lumos_core.flower.records import record_bytes, to_record
    from lumos_core.learning.model import get_params, new_model
    from lumos_core.wire.codecs import codec

    delta = get_params(new_model(config, items))
    rng = np.random.default_rng(0)
    arrays = codec(config.delta_codec).encode(delta, rng, config.top_rows_share)
    return record_bytes(to_record(arrays))


def summarise(results: list[Result], items: int) -> list[dict[str, Any]]:
    """A row per codec: bytes, mean and spread of HR@20, paired differences from float32."""
    base = {r["seed"]: r["test"]["hr@20"] for r in results if r["variant"] == REFERENCE}
    rows: list[dict[str, Any]] = []
    for name in CODECS:
        group = sorted((r for r in results if r["variant"] == name), key=lambda r: r["seed"])
        found = [r["test"]["hr@20"] for r in group]
        paired = [r["test"]["hr@20"] / base[r["seed"]] - 1 for r in group]
        size = message_bytes(RunConfig.from_flat(group[0]["config"]), items)
        rows.append(
            {
                "codec": name,
                "seeds": [r["seed"] for r in group],
                "bytes_a_node_a_round": size,
                "hr@20": found,
                "hr@20_mean": mean(found),
                "hr@20_stdev": stdev(found) if len(found) > 1 else 0.0,
                "relative_difference": mean(found) / mean(base.values()) - 1,
                "paired_standard_error": stdev(paired) / len(paired) ** 0.5 if found[1:] else 0.0,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    header = (
        "codec", "bytes a node a round", "fewer", "HR@20", "against float32 (± standard error)",
    )  # fmt: skip
    cells = [
        [
            row["codec"],
            f"{row['bytes_a_node_a_round']:,}",
            f"{rows[0]['bytes_a_node_a_round'] / row['bytes_a_node_a_round']:.2f} ×",
            f"{row['hr@20_mean']:.4f} ± {row['hr@20_stdev']:.4f}",
            f"{row['relative_difference']:+.1%} ± {row['paired_standard_error']:.1%}",
        ]
        for row in rows
    ]
    return markdown_table(header, cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder made by `lumos prepare`")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--runs", type=Path, default=Path("runs/codecs"), help="finished runs")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=RunConfig().rounds)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--method", choices=("fedavg", "fedavg-plus"), default="fedavg")
    args = parser.parse_args()
    base = {**BASE, "method": args.method, "rounds": args.rounds}
    jobs = [
        VariantRun(
            args.data, RunConfig.from_flat({**base, **changes, "seed": int(seed)}), variant=name
        )
        for seed in args.seeds.split(",")
        for name, changes in CODECS.items()
    ]

    def say(result: Result, found: bool) -> None:
        print(result["variant"], result["seed"], f"{result['test']['hr@20']:.4f}", flush=True)

    kept = ResultsFile(args.runs, RunConfig.from_flat(base))
    results = run_jobs(jobs, kept, args.jobs, say)
    from lumos_core.data.prepared_folder import load_prepared

    catalog, nodes = load_prepared(args.data)
    rows = summarise(results, len(catalog))
    head = (
        f"`python benchmarks/codecs.py {args.data.name} --method {args.method} "
        f"--seeds {args.seeds}`: {len(nodes)} nodes, {len(catalog)} items, {args.rounds} rounds, "
        "with the semantic start.\n\n"
    )
    name = "codecs" if args.method == "fedavg" else f"codecs_{args.method}"
    write_json(args.out / f"{name}.json", {"data": args.data.name, "rows": rows})
    write_atomically(args.out / f"{name}.md", (head + table(rows)).encode())
    print(table(rows))


if __name__ == "__main__":
    main()
