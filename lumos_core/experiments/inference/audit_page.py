"""The results of `lumos audit` as one page: what a server learns from what nodes send."""

from collections.abc import Mapping, Sequence
from typing import Any

from lumos_core.experiments.inference.active_table import NOTHING, epsilon_text
from lumos_core.experiments.inference.leakage import TOP, Leakage
from lumos_core.pages.page import Cell, Figure, Page, Paragraph, Section, Shade, Table
from lumos_core.runs.report_page import configuration, made

_LEVELS = 9
_ABOUT_AUC = (
    "AUC: how often an item of the users stands above another item in the server's guess. 0.5 is "
    "guessing blindly, 1 is knowing."
)
Rows = Sequence[Mapping[str, Any]]


def leakage_page(rows: Sequence[Leakage], facts: Mapping[str, Any]) -> Page:
    """The page of a curious server.

    Args:
        rows: a row per setting and number of users, not none.
        facts: what ``leakage.json`` says about the audit.
    """
    settings = list(dict.fromkeys(str(row["setting"]) for row in rows))
    sizes = sorted({int(row["users"]) for row in rows})
    of = {(row["setting"], row["users"]): row for row in rows}
    heat: list[list[Cell]] = [
        [name, *(_shade(of.get((name, size), {}).get("auc"), 0.5) for size in sizes)]
        for name in settings
    ]
    guesses: list[list[Cell]] = [
        [
            f"{row['setting']}, {row['users']} users",
            _number(row["auc"]),
            _number(row.get(f"precision@{TOP}")),
            _number(row.get("chance")),
            _number(row.get("user_auc")),
            _number(row.get("popularity_auc")),
            _number(row.get("view_auc")),
        ]
        for row in rows
    ]
    header = ("setting", "AUC", f"of the best {TOP} guesses right", "by chance",
              "AUC of one user's items", "by popularity alone", "AUC of views' items")  # fmt: skip
    names = ["setting", *(f"{size} users" if size > 1 else "1 user" for size in sizes)]
    return _page(
        f"What deltas tell: {facts['data']}",
        _leakage_lead(rows),
        [Figure("Settings", f"{len(settings)}"), Figure("Nodes attacked", f"{facts['trials']}",
                                                        "in every setting")],
        [
            Section(
                "guesses", "How well the server guesses the items of a node",
                [Paragraph(_ABOUT_AUC), Table("AUC by setting and users of the node", names, heat)],
            ),
            Section("numbers", "All numbers", [Table("Means", header, guesses, folded=True)]),
        ],
        facts,
    )  # fmt: skip


def active_page(
    rows: Rows, membership: Rows, refusals: Mapping[str, str], facts: Mapping[str, Any]
) -> Page:
    """The page of a malicious server.

    Args:
        rows: a row per move and protection.
        membership: a row per setting, length, model and attack.
        refusals: what a node answers to each way of asking for a sum of one or two.
        facts: what ``active.json`` says about the audit.
    """
    moves = list(dict.fromkeys(str(row["move"]) for row in rows))
    protections = list(dict.fromkeys(str(row["protection"]) for row in rows))
    found = {(row["protection"], row["move"]): row["recovered"] for row in rows}
    heat: list[list[Cell]] = [
        [name, *(_shade(_first(found.get((name, move))), 0.0) for move in moves)]
        for name in protections
    ]
    every: list[list[Cell]] = [
        [
            f"{row['move']}: {row['protection']}",
            _number(_first(row["user_auc"])),
            _number(_first(row["recovered"])),
            _number(_first(row["chance"])),
            str(row["rounds"]),
            epsilon_text(row["epsilon"]),
            ", ".join(row["refused_by"]) or NOTHING,
        ]
        for row in rows
    ]
    asked: list[list[Cell]] = [
        [
            f"{row['setting']}, {row['rounds']} rounds, {row['model']} model, {row['attack']}",
            _shade(sum(row["auc"]) / len(row["auc"]), 0.5),
            epsilon_text(row["epsilon"]),
        ]
        for row in membership
    ]
    header = ("move: protection", "AUC of the user's items", "recovered", "by chance", "rounds",
              "ε of a user", "a node refuses it by")  # fmt: skip
    return _page(
        f"A malicious server: {facts['data']}",
        _active_lead(rows),
        [
            Figure("Moves", f"{len(moves)}"),
            Figure("Protections", f"{len(protections)}"),
            Figure("Users of a node", f"{facts['users']}"),
        ],
        [
            Section(
                "recovered", "How much of a user's history it recovers",
                [Table("Share of the items, means over targets", ["protection", *moves], heat),
                 Table("Every move", header, every, folded=True, align="lrrrrrl")],
            ),
            Section(
                "membership", "Who was trained on, by the models alone",
                [Paragraph(_ABOUT_AUC.replace("an item of the users", "a user of the training")
                           .replace("another item", "another user")),
                 Table("Membership", ("model and attack", "AUC", "ε of a user"), asked)]
                if asked else [],
            ),
            Section(
                "refusals", "What a node refuses",
                [Table("Sums over too few", ("asked for", "the node's answer"),
                       [list(pair) for pair in refusals.items()], align="l")] if refusals else [],
            ),
        ],
        facts,
    )  # fmt: skip


def _page(
    title: str,
    lead: str,
    figures: Sequence[Figure],
    sections: Sequence[Section],
    facts: Mapping[str, Any],
) -> Page:
    last = Section("configuration", "Configuration", configuration(facts["config"]))
    return Page(
        title=title, kicker="LUMOS · audit", lead=lead, figures=figures,
        sections=(*sections, last), made=made(facts.get("versions", {})),
    )  # fmt: skip


# ---------------------------------------------------------------- sentences
def _leakage_lead(rows: Sequence[Leakage]) -> str:
    known = [row for row in rows if row["auc"] is not None]
    if not known:
        return "There was nothing to guess: the nodes' users had no items, or all."
    worst = max(known, key=lambda row: float(row["auc"]))
    best = min(known, key=lambda row: float(row["auc"]))
    return (
        f"The server guesses best where a node with {_users(worst)} sends with the setting "
        f"“{worst['setting']}”: AUC {worst['auc']:.3f}. It guesses worst with {_users(best)} and "
        f"“{best['setting']}”: AUC {best['auc']:.3f}, where 0.5 is guessing blindly."
    )


def _active_lead(rows: Rows) -> str:
    known = [row for row in rows if row["recovered"] is not None]
    if not known:
        return "No move told anything about a user."
    worst = max(known, key=lambda row: float(row["recovered"][0]))
    best = min(known, key=lambda row: float(row["recovered"][0]))
    return (
        f"The most is recovered by the move “{worst['move']}” against the protection "
        f"“{worst['protection']}”: {worst['recovered'][0]:.0%} of a user's items. The least is "
        f"{best['recovered'][0]:.1%}, with “{best['protection']}”; by chance it would be "
        f"{best['chance'][0]:.1%}."
    )


def _users(row: Leakage) -> str:
    return "1 user" if row["users"] == 1 else f"{row['users']} users"


def _first(values: Sequence[float] | None) -> float | None:
    return None if values is None else values[0]


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _shade(value: float | None, blind: float) -> Cell:
    """A number on a ground that is the darker, the further it is above blind guessing."""
    if value is None:
        return NOTHING
    level = round(_LEVELS * (value - blind) / (1.0 - blind))
    return Shade(f"{value:.3f}", max(0, min(_LEVELS, level)))
