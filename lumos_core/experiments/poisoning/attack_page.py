"""The results of `lumos attack` as one page: what attacks achieved against each method."""

from collections.abc import Callable, Sequence
from statistics import mean

from lumos_core.experiments.poisoning.attack_table import (
    ATTACK_HEADER,
    Cell,
    attack_rows,
    by_cell,
    lost,
)
from lumos_core.experiments.poisoning.scenarios import NONE
from lumos_core.experiments.results_file import Result
from lumos_core.pages.page import Cell as Shown
from lumos_core.pages.page import Figure, Page, Section, Shade, Table
from lumos_core.runs.report_page import NO_VALUE, configuration, made

_LEVELS = 9
_LEAST = 0.005  # a smaller value than this has the lightest ground


def attack_page(results: Sequence[Result], data: str) -> Page:
    """The page.

    Args:
        results: results of `lumos attack`, not none.
        data: name of the data.
    """
    cells = by_cell(results)
    methods = list(dict.fromkeys(method for method, _ in cells))
    scenarios = list(dict.fromkeys(label for _, label in cells))
    damage = _heat(cells, methods, scenarios, lambda group: lost(results, group, "hr@20"))
    promoted = _heat(cells, methods, scenarios, lambda group: [r["er@10"] for r in group])
    header = ["scenario", *methods]
    return Page(
        title=f"Attacks on {data}",
        kicker="LUMOS · malicious nodes in otherwise real federations",
        lead=_lead(results, cells, methods),
        figures=[
            Figure("Methods", f"{len(methods)}", "with their defences"),
            Figure("Scenarios", f"{len(scenarios)}"),
            Figure("Runs", f"{len(results)}", f"{len({r['seed'] for r in results})} seeds"),
        ],
        sections=(
            Section(
                "damage", "What attacks cost everybody",
                [Table("HR@20 lost, mean over seeds", header, damage, note=_DAMAGE)],
            ),
            Section(
                "promotion", "What attacks gain for their item",
                [Table("ER@10 of the target, mean over seeds", header, promoted, note=_PROMOTED)],
            ),
            Section(
                "numbers", "All numbers",
                [Table("Every method and scenario", ATTACK_HEADER, attack_rows(results),
                       folded=True, align="llr")],
            ),
            Section(
                "configuration", "Configuration in common", configuration(results[0]["config"])
            ),
        ),
        made=made(results[0].get("versions", {})),
    )  # fmt: skip


_DAMAGE = (
    "Against the run of the same method, seed and honest nodes without attack. Less is better."
)
_PROMOTED = "The share of users to whom the attacked item is among the first 10. Less is better."


def _lead(results: Sequence[Result], cells: dict[Cell, list[Result]], methods: list[str]) -> str:
    """The worst that happened to each of the first methods."""
    return " ".join(_worst(results, cells, method) for method in methods[:2])


def _worst(results: Sequence[Result], cells: dict[Cell, list[Result]], method: str) -> str:
    attacked = {
        label: group
        for (name, label), group in cells.items()
        if name == method and group[0]["scenario"]["attack"] != NONE
    }
    found = {
        label: mean(losses)
        for label, group in attacked.items()
        if (losses := lost(results, group, "hr@20"))
    }
    if not found:
        return f"For {method} there is no run with an attack and the same one without."
    worst = max(found, key=lambda label: found[label])
    damage = f"{method} lost nothing"
    if found[worst] > 0:
        damage = f"{method} lost at most {found[worst]:.4f} of HR@20 ({worst})"
    gains = {label: mean(r["er@10"] for r in group) for label, group in attacked.items()}
    most = max(gains, key=lambda label: gains[label])
    if not gains[most]:
        return f"{damage}, and no user got the attacked item among the first 10."
    return (
        f"{damage}, and at most {gains[most]:.1%} of its users got the attacked item among their "
        f"first 10 ({most})."
    )


def _heat(
    cells: dict[Cell, list[Result]],
    methods: Sequence[str],
    scenarios: Sequence[str],
    values: Callable[[list[Result]], Sequence[float]],
) -> list[list[Shown]]:
    """Scenarios × methods: means, on a ground that is the darker, the worse they are."""
    means = {cell: mean(found) for cell, group in cells.items() if (found := values(group))}
    top = max(_LEAST, *means.values()) if means else _LEAST
    return [
        [label, *(_shade(means.get((method, label)), top) for method in methods)]
        for label in scenarios
    ]


def _shade(value: float | None, top: float) -> Shown:
    if value is None:
        return NO_VALUE
    return Shade(f"{round(value, 3) + 0.0:.3f}", max(0, min(_LEVELS, round(_LEVELS * value / top))))
