"""The same variant before and after a change: a paired interval over users and seeds.

    python benchmarks/paired_change.py BEFORE AFTER … --out FILE.json

BEFORE and AFTER are folders of ``lumos compare``, about the same users and seeds.
``docs/results/fewer-tokens`` and ``docs/results/artefact`` are of ``lumos`` on the bundled shop,
with shorter prompts than ``docs/results/bundled-item-bias`` and otherwise the same settings::

    lumos prepare sample --out data/bundled --nodes 8
    lumos views build data/bundled --shared
    lumos compare data/bundled --out docs/results/fewer-tokens --partition drawn \\
        -c aggregation=mean -c clip=none -c max-weight-ratio=10 -c rounds=80 -c patience=8 \\
        -c batch-size=32 -c item-bias=auto --variants lumos

and for ``docs/results/artefact``, before views are built, ``lumos catalog build
data/bundled/catalog.tsv --out data/bundled/catalog.safetensors``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.experiments.comparison.comparison_table import RANKS, ranks_of
from lumos_core.experiments.comparison.intervals import Bootstrap, user_metric
from lumos_core.experiments.comparison.tuning import in_table
from lumos_core.experiments.results_file import ResultsFile
from lumos_core.safe_files import write_json

METRICS, SPLITS = ("hr@10", "hr@20", "ndcg@20"), ("validation", "test")


def runs_of(folder: Path, variant: str) -> dict[int, Any]:
    """Seed -> the run of a variant that counts in the table."""
    runs = in_table(ResultsFile(folder, RunConfig()).read().values())
    return {run["seed"]: run for run in runs if run["variant"] == variant and RANKS in run}


def change(before: Path, after: Path, variant: str) -> dict[str, Any]:
    """The means of both, and the relative difference with its interval."""
    old, new = runs_of(before, variant), runs_of(after, variant)
    seeds = sorted(old.keys() & new.keys())
    if not seeds:
        raise SystemExit(f"{before}, {after}: no seed of {variant!r} with ranks is in both")
    found: dict[str, Any] = {"seeds": seeds}
    for split in SPLITS:
        ranks = [np.array([ranks_of(runs[s], split) for s in seeds], float) for runs in (old, new)]
        paired = Bootstrap(ranks[0].shape[1])
        for metric in METRICS:
            base, ours = (user_metric(one, metric) for one in ranks)
            interval = paired.relative(ours, base)
            found[f"{split} {metric}"] = {
                "before": round(float(base.mean()), 4),
                "after": round(float(ours.mean()), 4),
                "relative difference": interval and [round(part, 4) for part in interval],
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="+")
    parser.add_argument("--variant", default="lumos")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result = {
        f"{after.name} against {args.before.name}": change(args.before, after, args.variant)
        for after in args.after
    }
    print(json.dumps(result, indent=2))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
