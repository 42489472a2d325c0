"""A picture of the curves of `lumos compare`: quality on validation by round."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from lumos_core.experiments.comparison.comparison_table import COMPARED_METRICS, by_variant
from lumos_core.experiments.comparison.variants import UNFEDERATED
from lumos_core.experiments.results_file import Result
from lumos_core.learning.metrics import SELECTION_METRIC

_LINES = 10


def plot_curves(results: Sequence[Result], path: Path, title: str) -> None:
    """Plot HR@20 and NDCG@20 on validation by round: one line per variant, with a band of ± one
    standard deviation over seeds. Variants without rounds are horizontal lines at their best
    value."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    colors, drawn = plt.get_cmap("tab10"), _drawn(results)
    left_out = len(by_variant(results)) - len(drawn)
    shown = [r for group in drawn.values() for r in federated(group)]
    last = max((p["round"] for r in shown for p in r["curve"]), default=1)
    for axis, metric in zip(axes, COMPARED_METRICS, strict=True):
        for number, (name, group) in enumerate(drawn.items()):
            color = colors(number)
            if not federated(group):
                if not all("validation" in r for r in group):
                    continue  # popularity of an earlier version
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
    figure.suptitle(f"{title} ({left_out} more are in the table)" if left_out else title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _drawn(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The variants of the picture. More than ten lines cannot be told apart: then those with most
    seeds, and of these the best on validation."""

    def rank(group: list[Result]) -> tuple[int, float]:
        found = [r["validation"][SELECTION_METRIC] for r in group if "validation" in r]
        return len(group), mean(found) if found else 0.0

    groups = by_variant(results)
    chosen = sorted(groups, key=lambda name: rank(groups[name]), reverse=True)[:_LINES]
    return {name: groups[name] for name in groups if name in chosen}


def federated(results: Sequence[Result]) -> list[Result]:
    """The results whose curve is by round; others have one by epoch, or none."""
    return [r for r in results if r["variant"] not in UNFEDERATED]
