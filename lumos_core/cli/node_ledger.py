"""``lumos node ledger``: what left this node's machine, in plain words."""

import json
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from lumos_core.cli.node_options import (
    Data,
    Json,
    Settings,
    SomeBundle,
    State,
    node_settings,
)
from lumos_core.errors import DataError
from lumos_core.privacy import ledger_words as words
from lumos_core.privacy.node_budget import AccountError

if TYPE_CHECKING:
    from lumos_core.privacy.ledger_report import LedgerReport, RunReport


def ledger_command(
    bundle: SomeBundle = None,
    data: Data = None,
    state: State = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Tell in plain words what left this machine: runs, rounds, bytes, privacy, and ε.

    ε over all runs is counted by one accountant, and is less than the sum of the runs' ε. What the
    owner's limits leave is shown beside it. The ledger itself has every record that left.
    """
    from lumos_core.privacy.ledger_report import LedgerReport

    node = node_settings(bundle, data, state, settings)
    place = node.state_folder
    try:
        found = LedgerReport.of(place, node)
    except AccountError as error:
        raise DataError(str(error)) from None
    if as_json:
        typer.echo(json.dumps(_facts(node.name, found), indent=2, ensure_ascii=False))
        return
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if found.empty:
        console.print(f"the ledger is empty: nothing has left this machine ({place})")
        return
    _print(found, node.name if bundle else node.data, console)
    console.print(f"\nevery record that left, without its values: zcat -f {place}/ledger*")


def _print(found: "LedgerReport", name: str, console: Console) -> None:
    console.print(f"{name}: what left this machine", style="bold")
    for run in found.runs:
        _print_run(run, found, console)
    if not found.runs:
        console.print("  the ledger has no reply")
    console.print("\nall runs together", style="bold")
    for text in (*words.totals(found), *words.limits(found)):
        console.print(f"  {text}")
    if found.forgotten:
        console.print("\nusers forgotten", style="bold")
    for line in found.forgotten:
        console.print(f"  {words.day(line.time)}  {words.forgotten(line)}")


def _print_run(run: "RunReport", found: "LedgerReport", console: Console) -> None:
    console.print(f"\nrun {run.run}: {words.days(run)}{words.rounds(run)}")
    errors = f", {words.count(run.errors, 'error code')}" if run.errors else ""
    other = "1 other reply" if run.others == 1 else f"{run.others} other replies"
    console.print(
        f"  sent     {words.count(run.trainings, 'delta')}, {other}{errors}; {run.bytes:,} bytes"
    )
    console.print(f"  privacy  {words.privacy(run)}")
    console.print(f"  ε        {words.epsilon(run, found.delta)}")


def _facts(name: str, found: "LedgerReport") -> dict[str, Any]:
    spent = found.spent
    return {
        "node": name,
        "runs": [
            {
                "run": run.run,
                "first": run.first,
                "last": run.last,
                "rounds": list(run.rounds) if run.rounds else None,
                "trainings": run.trainings,
                "other_replies": run.others,
                "errors": run.errors,
                "bytes": run.bytes,
                "dp": run.dp,
                "noise": run.noise,
                "public_noise": run.public_noise,
                "secure_aggregation": run.secure_aggregation,
                "epsilon": run.epsilon,
            }
            for run in found.runs
        ],
        "all": {
            "epsilon": found.epsilon,
            "delta": found.delta,
            "trainings": spent.trainings,
            "without_epsilon": spent.uncounted,
            "bytes": sum(run.bytes for run in found.runs),
        },
        "limits": {
            "max-run-epsilon": found.run_limit or None,
            "max-total-epsilon": found.total_limit or None,
            "left": found.left,
        },
        "forgotten": [
            {"time": line.time, "users": line.users, "interactions": line.interactions}
            for line in found.forgotten
        ],
    }
