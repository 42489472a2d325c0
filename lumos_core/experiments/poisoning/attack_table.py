"""Results of `lumos attack`: a Markdown table and a heat map."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from lumos_core.experiments.poisoning.scenarios import NONE
from lumos_core.experiments.results_file import Result
from lumos_core.terminal.tables import markdown_table, spread

ATTACK_HEADER = (
    "method", "scenario", "seeds", "HR@20", "lost HR@20", "NDCG@20", "ER@10 of target",
    "mean rank of target", "refused replies",
)  # fmt: skip
Cell = tuple[str, str]
"""Method and scenario."""


def scenario_label(scenario: Mapping[str, Any]) -> str:
    """A scenario in words, for a row of the table."""
    many = f"{scenario['nodes'] + scenario['malicious']}"
    if scenario["partition"] != "uniform":
        many += f" {scenario['partition']}"
    if scenario["noise"]:
        return f"noise in all histories, {scenario['noise']:.0%}"
    whose = scenario.get("clients", "nodes")
    if scenario["attack"] == NONE:
        return f"no attack ({many} {whose})"
    return (
        f"{scenario['attack']}, {scenario['malicious']} of {many} {whose}, ξ = {scenario['xi']:g}"
    )


def by_cell(results: Sequence[Result]) -> dict[Cell, list[Result]]:
    """Results by method and scenario, each ordered by seed; cells in order of appearance."""
    cells: dict[Cell, list[Result]] = {}
    for result in results:
        cells.setdefault((result["method"], scenario_label(result["scenario"])), []).append(result)
    return {cell: sorted(group, key=lambda r: r["seed"]) for cell, group in cells.items()}


def without_attack(results: Sequence[Result], of: Result) -> Result | None:
    """The run of the same method, seed and honest nodes in which nobody attacked."""

    def honest(result: Result) -> tuple[Any, ...]:
        scenario = result["scenario"]
        return (result["method"], result["seed"], scenario["nodes"], scenario["partition"])

    calm = (r for r in results if r["scenario"]["attack"] == NONE and not r["scenario"]["noise"])
    return next((result for result in calm if honest(result) == honest(of)), None)


def lost(results: Sequence[Result], group: Sequence[Result], metric: str) -> list[float]:
    """How far a metric is below its value without attack (negative: above), seed by seed."""
    losses = []
    for result in group:
        base = without_attack(results, result)
        if base is not None:
            losses.append(base[metric] - result[metric])
    return losses


def attack_table(results: Sequence[Result]) -> str:
    """The rows as Markdown."""
    return markdown_table(ATTACK_HEADER, attack_rows(results), align="llr")


def attack_rows(results: Sequence[Result]) -> list[list[str]]:
    """A row per method and scenario: mean ± standard deviation over seeds. Differences are to the
    run of the same method, seed and nodes without attack."""
    rows = []
    for (method, label), group in by_cell(results).items():
        refused = sum(r["rejected"]["malicious"] + r["rejected"]["honest"] for r in group)
        cells = [
            method,
            label + (f" ({group[0]['views']} views)" if group[0]["views"] != "none" else ""),
            str(len(group)),
            spread([r["hr@20"] for r in group], "{:.4f}"),
            spread(lost(results, group, "hr@20"), "{:+.4f}"),
            spread([r["ndcg@20"] for r in group], "{:.4f}"),
            spread([r["er@10"] for r in group], "{:.4f}"),
            spread([r["target-rank"] for r in group], "{:.1%}"),
            str(refused),
        ]
        rows.append(cells)
    return rows


def plot_heat_map(results: Sequence[Result], path: Path, title: str) -> None:
    """Methods × scenarios: HR@20 lost to the attack, and ER@10 of the target; means over seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    cells = by_cell(results)
    methods = list(dict.fromkeys(method for method, _ in cells))
    labels = list(dict.fromkeys(label for _, label in cells))

    def values(of: str) -> np.ndarray:
        out = np.full((len(labels), len(methods)), np.nan)
        for (method, label), group in cells.items():
            found = [r["er@10"] for r in group] if of == "er@10" else lost(results, group, of)
            if found:
                out[labels.index(label), methods.index(method)] = mean(found)
        return out

    size = (3.9 + 2.2 * len(methods), 1.9 + 0.34 * len(labels))
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    for axis, metric, name in zip(
        axes, ("hr@20", "er@10"), ("HR@20 lost", "ER@10\nof the target"), strict=True
    ):
        shown = values(metric)
        top = max(float(np.nanmax(shown, initial=0.0)), 1e-3)
        axis.imshow(shown, cmap="Reds", vmin=0.0, vmax=top, aspect="auto")
        for (row, column), value in np.ndenumerate(shown):
            if not np.isnan(value):
                color = "white" if value > 0.6 * top else "black"
                axis.text(column, row, f"{value:.3f}", ha="center", va="center", color=color,
                          fontsize=8)  # fmt: skip
        axis.set_xticks(range(len(methods)), methods, rotation=30, ha="right")
        axis.set_yticks(range(len(labels)), labels)
        axis.set_title(name, fontsize=10)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
