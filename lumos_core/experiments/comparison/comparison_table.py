"""Results of `lumos compare`: a Markdown table and a picture of the curves."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from lumos_core.experiments.results_file import Result
from lumos_core.terminal.tables import markdown_table, spread

COMPARED_METRICS = ("hr@20", "ndcg@20")


def by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results grouped by variant, each group ordered by seed; groups in order of appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["variant"], []).append(result)
    return {name: sorted(group, key=lambda r: r["seed"]) for name, group in groups.items()}


def comparison_table(results: Sequence[Result], reference: str) -> str:
    """The rows of `table_rows` as Markdown."""
    header = ["variant", "seeds", "HR@20", "NDCG@20", f"HR@20 vs {reference}", "NDCG@20 vs same"]
    return markdown_table(header, table_rows(results, reference))


def table_rows(results: Sequence[Result], reference: str) -> list[list[str]]:
    """One row per variant: test metrics as mean ± standard deviation over seeds, and the relative
    difference to the reference: the mean of the differences paired by seed, ± their standard
    deviation.

    Args:
        results: results of `lumos compare`.
        reference: the variant that all variants are compared with.
    """
    groups = by_variant(results)
    rows = []
    for name, group in groups.items():
        row = [name, str(len(group))]
        row += [spread([r["test"][m] for r in group], "{:.4f}") for m in COMPARED_METRICS]
        row += [
            spread(relative_differences(group, groups.get(reference, []), m), "{:+.1%}")
            for m in COMPARED_METRICS
        ]
        rows.append(row)
    return rows


def relative_differences(
    group: Sequence[Result], reference: Sequence[Result], metric: str
) -> list[float]:
    """``value / reference − 1`` of the test metric for every seed that both have."""
    base = {r["seed"]: r["test"][metric] for r in reference}
    return [
        r["test"][metric] / base[r["seed"]] - 1 if base[r["seed"]] else math.nan
        for r in group
        if r["seed"] in base
    ]


def plot_curves(results: Sequence[Result], path: Path, title: str) -> None:
    """Plot HR@20 and NDCG@20 on validation by round: one line per variant, with a band of ± one
    standard deviation over seeds. Variants without rounds are horizontal lines at their best
    value."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    colors = plt.get_cmap("tab10" if len(by_variant(results)) <= 10 else "tab20")
    last = max((p["round"] for r in _federated(results) for p in r["curve"]), default=1)
    for axis, metric in zip(axes, COMPARED_METRICS, strict=True):
        for number, (name, group) in enumerate(by_variant(results).items()):
            color = colors(number)
            if not _federated(group):
                if not all("validation" in r for r in group):
                    continue  # popularity: nothing was selected on validation
                level = mean(r["validation"][metric] for r in group)
                axis.axhline(level, color=color, linestyle="--", linewidth=1.3, label=name)
                continue
            rounds = sorted({p["round"] for r in group for p in r["curve"]})
            values = [
                [p[metric] for r in group for p in r["curve"] if p["round"] == at] for at in rounds
            ]
            middle = np.array([mean(v) for v in values])
            width = np.array([stdev(v) if len(v) > 1 else 0.0 for v in values])
            axis.plot(rounds, middle, color=color, linewidth=1.8, label=name)
            axis.fill_between(rounds, middle - width, middle + width, color=color, alpha=0.15)
        axis.set(xlabel="round", ylabel=f"validation {metric.upper()}", xlim=(0, last))
        axis.set_ylim(bottom=0)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _federated(results: Sequence[Result]) -> list[Result]:
    """The results whose curve is by round; others have one by epoch, or none."""
    from lumos_core.experiments.comparison.variants import UNFEDERATED

    return [r for r in results if r["variant"] not in UNFEDERATED]
