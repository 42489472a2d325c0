"""`lumos audit`: what a curious server learns from one node's delta."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lumos_core.cli.options import (
    ConfigOption,
    check_out,
    defaults_for,
    integers,
    with_overrides,
)
from lumos_core.cli.screens import number, results_table
from lumos_core.errors import ConfigError
from lumos_core.experiments.inference.settings import SETTINGS
from lumos_core.safe_files import write_atomically, write_json

if TYPE_CHECKING:  # imports torch
    from lumos_core.experiments.inference.leakage import Leakage


def audit_command(
    data: Annotated[Path, typer.Argument(help="Folder made by `lumos prepare`.")],
    out: Annotated[Path, typer.Option(help="Folder for leakage.json and leakage.md.")],
    settings: Annotated[
        str, typer.Option(help=f"Semicolon-separated, or 'all'. Known are: {'; '.join(SETTINGS)}.")
    ] = "all",
    users: Annotated[str, typer.Option(help="Users per node, comma-separated.")] = "1,10,50,200",
    trials: Annotated[int, typer.Option(min=1, help="Nodes attacked in every setting.")] = 3,
    shadows: Annotated[int, typer.Option(min=1, help="Nodes the attack learns from.")] = 2,
    after: Annotated[int, typer.Option(min=0, help="Rounds of training before the attack.")] = 0,
    masks: Annotated[
        int,
        typer.Option(
            min=1, help="Under secure aggregation: a node's numbers are means over so many masks."
        ),
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Which users form which node.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Guess the items of a node's users from its delta, with and without defences.

    The attack learns on shadow nodes, whose users the server knows, and is measured on others.
    See docs/privacy.md.
    """
    # these import torch and polars
    from lumos_core.experiments.inference.audit import audits, leakage_table
    from lumos_core.experiments.inference.leakage import TOP
    from lumos_core.experiments.jobs import library_versions

    names = list(SETTINGS) if settings == "all" else [s.strip() for s in settings.split(";")]
    sizes = integers(users, "--users")
    if min(sizes) < 1:
        raise ConfigError(f"--users {users!r}: expected positive whole numbers, as in 1,10,50")
    base = with_overrides(defaults_for(data), config)
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
    headers = ("setting", "users", "AUC", f"top {TOP}", "one user's", "views'", "popularity")
    console.print(results_table(headers, _screen_rows(rows, f"precision@{TOP}")))
    console.print(f"written: {out / 'leakage.json'}, leakage.md")


def _screen_rows(rows: "list[Leakage]", precision: str) -> Iterator[list[str]]:
    """Per row: AUC of guessing the node's items, precision of the best guesses, AUC for single
    users' items and for views' items, and the AUC that popularity alone would reach."""
    for row in rows:
        found = (row[k] for k in ("auc", precision, "user_auc", "view_auc", "popularity_auc"))
        yield [row["setting"], str(row["users"]), *(number(value, ".3f") for value in found)]
