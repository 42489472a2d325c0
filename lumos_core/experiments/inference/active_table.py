"""Results of `lumos audit --active` as Markdown tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from lumos_core.experiments.inference.active_audit import interval
from lumos_core.terminal.tables import markdown_table

NOTHING = "–"


def active_tables(
    rows: Sequence[Mapping[str, Any]],
    membership: Sequence[Mapping[str, Any]],
    refusals: Mapping[str, str],
) -> str:
    """The overview, and the tables of moves, of membership and of refused cohorts."""
    tables = [
        overview_table(rows), moves_table(rows), membership_table(membership),
        refusals_table(refusals),
    ]  # fmt: skip
    return "\n".join(tables)


def overview_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The share of the user's items that is recovered: protections × moves, means over targets."""
    moves = list(dict.fromkeys(row["move"] for row in rows))
    shown = {(row["protection"], row["move"]): _mean(row["recovered"]) for row in rows}
    cells = [
        [name, *(shown.get((name, move), NOTHING) for move in moves)]
        for name in dict.fromkeys(row["protection"] for row in rows)
    ]
    return markdown_table(["share recovered", *moves], cells)


def moves_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row per move and protection; brackets hold 95 % intervals over the targets."""
    header = (
        "move", "protection", "AUC of the user's items", "recovered", "chance",
        "AUC of the node's items", "rounds", "ε of a user", "refused by",
    )  # fmt: skip
    cells = [
        [
            row["move"],
            row["protection"],
            *(_bracketed(row[name]) for name in ("user_auc", "recovered")),
            _mean(row["chance"]),
            _bracketed(row["node_auc"]),
            str(row["rounds"]),
            epsilon_text(row["epsilon"]),
            ", ".join(row["refused_by"]) or NOTHING,
        ]
        for row in rows
    ]
    return markdown_table(header, cells, align="llrrrrrrl")


def membership_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row per setting, length, model and attack; brackets hold 95 % intervals over seeds."""
    header = (
        "protection", "rounds", "model", "attack", "AUC", "found at 5 % false alarms", "ε of a user"
    )  # fmt: skip
    cells = [
        [
            row["setting"],
            str(row["rounds"]),
            row["model"],
            row["attack"],
            _bracketed(interval(row["auc"])),
            _bracketed(interval(row["tpr"])),
            epsilon_text(row["epsilon"]),
        ]
        for row in rows
    ]
    return markdown_table(header, cells, align="lrllrrr")


def refusals_table(refusals: Mapping[str, str]) -> str:
    """What a node answers to each way of asking for a sum of one or two."""
    return markdown_table(("asked for", "the node's answer"), list(refusals.items()), align="ll")


def epsilon_text(value: float | None) -> str:
    """ε with three digits; a dash where there is none."""
    return NOTHING if value is None else f"{value:.3g}"


def _mean(values: Sequence[float] | None) -> str:
    return NOTHING if values is None else f"{values[0]:.3f}"


def _bracketed(values: Sequence[float] | None) -> str:
    if values is None:
        return NOTHING
    mean, low, high = values
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"
