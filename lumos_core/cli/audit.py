"""`lumos audit`: what a server learns from deltas, a curious one and, with --active, a malicious
one."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lumos_core.cli.options import (
    ConfigOption,
    check_out,
    defaults_for,
    integers,
    measured,
    unmasked,
    with_overrides,
)
from lumos_core.cli.screens import number, results_table
from lumos_core.errors import ConfigError
from lumos_core.experiments.inference.active_settings import PLAN, PROTECTIONS
from lumos_core.experiments.inference.settings import SETTINGS
from lumos_core.pages.page import Page, render
from lumos_core.runs.report_page import PAGE
from lumos_core.safe_files import write_atomically, write_json

USERS, ACTIVE_USERS = "1,10,50,200", "20"
_MASKED = "look at the settings called 'secure aggregation'"

if TYPE_CHECKING:  # imports torch
    from lumos_core.config import RunConfig
    from lumos_core.experiments.inference.leakage import Leakage


def audit_command(
    data: Annotated[Path, typer.Argument(help="Folder made by `lumos prepare`.")],
    out: Annotated[Path, typer.Option(help="Folder for leakage.json and leakage.md.")],
    settings: Annotated[
        str, typer.Option(help=f"Semicolon-separated, or 'all'. Known are: {'; '.join(SETTINGS)}.")
    ] = "all",
    users: Annotated[
        str,
        typer.Option(
            help=f"Users per node, comma-separated; default {USERS}, with --active {ACTIVE_USERS}.",
            show_default=False,
        ),
    ] = "",
    trials: Annotated[
        int, typer.Option(min=1, help="Nodes attacked in every setting, with --active per seed.")
    ] = 3,
    shadows: Annotated[int, typer.Option(min=1, help="Nodes the attack learns from.")] = 2,
    after: Annotated[int, typer.Option(min=0, help="Rounds of training before the attack.")] = 0,
    masks: Annotated[
        int,
        typer.Option(
            min=1, help="Under secure aggregation: a node's numbers are means over so many masks."
        ),
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Which users form which node.")] = 0,
    active: Annotated[
        bool, typer.Option("--active", help="Play a malicious server; writes active.json, .md.")
    ] = False,
    moves: Annotated[
        str,
        typer.Option(
            help=f"With --active: semicolon-separated, or 'all'. Known are: {'; '.join(PLAN)}."
        ),
    ] = "all",
    seeds: Annotated[
        str, typer.Option(help="With --active: comma-separated, instead of --seed.")
    ] = "0,1,2",
    config: ConfigOption = None,
) -> None:
    """Guess the items of a node's users from its delta, with and without defences.

    The attack learns on shadow nodes, whose users the server knows, and is measured on others.
    With --active the server sends models of its own making, looks for cohorts of one node, asks a
    node again and again; and kept and published models are asked who was trained on.
    See docs/privacy.md.
    """
    unmasked(config, _MASKED)
    if active:
        numbers = integers(users or ACTIVE_USERS, "--users")
        if len(numbers) != 1 or numbers[0] < 1:
            raise ConfigError(f"--users {users!r}: expected one positive number with --active")
        base = measured(with_overrides(defaults_for(data), config, {"seed": "--seeds"}))
        _audit_actively(data, out, base, numbers[0], trials, integers(seeds, "--seeds"), moves)
        return
    # these import torch and polars
    from lumos_core.experiments.inference.audit import audits, leakage_table
    from lumos_core.experiments.inference.audit_page import leakage_page
    from lumos_core.experiments.inference.leakage import TOP
    from lumos_core.experiments.jobs import library_versions

    names = list(SETTINGS) if settings == "all" else [s.strip() for s in settings.split(";")]
    sizes = integers(users or USERS, "--users")
    if min(sizes) < 1:
        raise ConfigError(f"--users {users!r}: expected positive whole numbers, as in 1,10,50")
    base = measured(with_overrides(defaults_for(data), config))
    check_out(out)
    console = Console()
    rows = audits(
        data, base, names, sizes, trials=trials, shadows=shadows,
        seed=seed, after=after, masks=masks,
        on_row=lambda r: console.print(
            f"{r['setting']:>32} {r['users']:>4} users  AUC {r['auc']:.3f}", highlight=False
        ),
    )  # fmt: skip
    facts = {
        "data": data.name, "seed": seed, "trials": trials, "shadows": shadows, "after": after,
        "masks": masks, "config": base.without_paths(),
        "settings": {name: SETTINGS[name].changes for name in names},
        "versions": library_versions(),
    }  # fmt: skip
    write_json(out / "leakage.json", {**facts, "rows": rows})
    write_atomically(out / "leakage.md", leakage_table(rows).encode())
    _write_page(out, leakage_page(rows, facts))
    headers = ("setting", "users", "AUC", f"top {TOP}", "one user's", "views'", "popularity")
    console.print(results_table(headers, _screen_rows(rows, f"precision@{TOP}")))
    console.print(f"written: {out / 'leakage.json'}, leakage.md, {PAGE}")


def _audit_actively(
    data: Path,
    out: Path,
    base: "RunConfig",
    users: int,
    trials: int,
    seeds: Sequence[int],
    moves: str,
) -> None:
    """The audit of a malicious server."""
    # these import torch, polars and Flower
    from lumos_core.experiments.inference.active_audit import active_audits, protected_config
    from lumos_core.experiments.inference.active_settings import SECURE
    from lumos_core.experiments.inference.active_table import active_tables
    from lumos_core.experiments.inference.audit_page import active_page
    from lumos_core.experiments.inference.lone_cohorts import refusals
    from lumos_core.experiments.inference.member_audit import MEMBER_SETTINGS, audit_membership
    from lumos_core.experiments.jobs import library_versions
    from lumos_core.flower.cryptography import FLOWER

    plan = _plan(moves)
    check_out(out)
    console = Console()
    rows = active_audits(
        data, base, users, trials=trials, seeds=seeds, plan=plan,
        on_row=lambda r: console.print(
            f"{r['move']:>16}  {r['protection']:<40}  recovered {r['recovered'][0]:.3f}",
            highlight=False,
        ),
    )  # fmt: skip
    # Nobody has written views for these federations.
    trained = base.replace(method="fedavg-plus") if base.has_views else base
    members = audit_membership(
        data, trained, seeds=seeds,
        on_row=lambda r: console.print(
            f"{'membership':>16}  {r['setting']:<40}  {r['rounds']} rounds, {r['model']}, "
            f"{r['attack']}: AUC {sum(r['auc']) / len(r['auc']):.3f}",
            highlight=False,
        ),
    )  # fmt: skip
    refused = refusals(protected_config(base, "watch", SECURE), FLOWER)
    facts = {
        "data": data.name, "seeds": list(seeds), "trials": trials, "users": users,
        "config": base.without_paths(), "membership_method": trained.method,
        "protections": {name: dict(p.changes) for name, p in PROTECTIONS.items()},
        "membership_protections": {name: dict(c) for name, c in MEMBER_SETTINGS.items()},
        "versions": library_versions(),
    }  # fmt: skip
    results = {"rows": rows, "membership": members, "refusals": refused}
    write_json(out / "active.json", {**facts, **results})
    write_atomically(out / "active.md", active_tables(rows, members, refused).encode())
    _write_page(out, active_page(rows, members, refused, facts))
    headers = ("move", "user's AUC", "recovered", "node's AUC", "rounds")
    console.print(results_table(headers, list(_active_rows(rows))))
    console.print(f"written: {out / 'active.json'}, active.md, {PAGE}")


def _write_page(out: Path, page: Page) -> None:
    write_atomically(out / PAGE, render(page).encode(errors="replace"))


def _plan(moves: str) -> Mapping[str, Sequence[str]]:
    """The moves that were asked for, each with the protections that it is made against."""
    names = list(PLAN) if moves == "all" else [m.strip() for m in moves.split(";")]
    for name in names:
        if name not in PLAN:
            raise ConfigError(f"--moves {name!r}: unknown; known are: {'; '.join(PLAN)}")
    return {name: PLAN[name] for name in names}


def _active_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """For each move: its name, then a row per protection."""
    for move in dict.fromkeys(row["move"] for row in rows):
        yield [move]
        for row in (r for r in rows if r["move"] == move):
            means = (row[k] and row[k][0] for k in ("user_auc", "recovered", "node_auc"))
            values = [number(value, ".3f") for value in means]
            yield [f"  {row['protection']}", *values, str(row["rounds"])]


def _screen_rows(rows: "list[Leakage]", precision: str) -> Iterator[list[str]]:
    """Per row: AUC of guessing the node's items, precision of the best guesses, AUC for single
    users' items and for views' items, and the AUC that popularity alone would reach."""
    for row in rows:
        found = (row[k] for k in ("auc", precision, "user_auc", "view_auc", "popularity_auc"))
        yield [row["setting"], str(row["users"]), *(number(value, ".3f") for value in found)]
