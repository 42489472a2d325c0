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
    shown_epsilon,
)
from lumos_core.errors import DataError
from lumos_core.privacy.node_budget import RUNS, AccountError

if TYPE_CHECKING:
    from lumos_core.privacy.ledger_report import LedgerReport, RunReport

_HIDES = {
    "central": "its server adds the noise, if it does: a node cannot count ε",
    "distributed": "each node adds a part of the noise; whole nodes are protected",
    "user": "each user of the node is protected",
}


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
    for text in (*_totals(found), *_limits(found)):
        console.print(f"  {text}")
    if found.forgotten:
        console.print("\nusers forgotten", style="bold")
    for line in found.forgotten:
        who = f"{_count(line.users, 'user')} with {_count(line.interactions, 'interaction')}"
        gone = "what was made from users who were not in the data any more"
        console.print(f"  {_day(line.time)}  {who if line.users else gone}")


def _print_run(run: "RunReport", found: "LedgerReport", console: Console) -> None:
    days = _day(run.first) if _day(run.first) == _day(run.last) else (
        f"{_day(run.first)} to {_day(run.last)}"
    )  # fmt: skip
    console.print(f"\nrun {run.run}: {days}{_rounds(run)}")
    errors = f", {_count(run.errors, 'error code')}" if run.errors else ""
    other = "1 other reply" if run.others == 1 else f"{run.others} other replies"
    console.print(
        f"  sent     {_count(run.trainings, 'delta')}, {other}{errors}; {run.bytes:,} bytes"
    )
    console.print(f"  privacy  {_privacy(run)}")
    console.print(f"  ε        {_epsilon(run, found.delta)}")


def _rounds(run: "RunReport") -> str:
    if run.rounds is None:
        return ""
    first, last = run.rounds
    return f", round {first}" if first == last else f", rounds {first} to {last}"


def _privacy(run: "RunReport") -> str:
    if run.dp is None:
        return "not noted (nothing of the run was known, or an older LUMOS wrote the ledger)"
    seen = (
        "secure aggregation: the server saw sums of several nodes only"
        if run.secure_aggregation
        else "no secure aggregation: the server saw each delta"
    )
    if run.dp == "none":
        return f"no differential privacy (dp = none); {seen}"
    if not run.protected:
        noise = "its noise is from a public seed" if run.public_noise else "it has no noise"
        return f"dp = {run.dp}, but {noise}, so that it hides nothing; {seen}"
    return f"dp = {run.dp}, noise {run.noise:g} times dp-clip ({_HIDES[run.dp]}); {seen}"


def _epsilon(run: "RunReport", delta: float) -> str:
    if run.epsilon is not None:
        trainings = _count(run.counted or 0, "training")
        return f"{run.epsilon:.3g} (δ = {delta:g}) in {trainings}, for a user of this node"
    if run.counted is None and run.trainings:
        return f"not listed by itself (only the last {RUNS} runs are); it is part of the sum below"
    if not run.trainings and not run.counted:
        return "0: no delta was sent"
    return "no bound: a node cannot count it here"


def _totals(found: "LedgerReport") -> list[str]:
    spent = found.spent
    runs = found.runs
    replies = sum(run.trainings + run.others + run.errors for run in runs)
    told = "reply" if replies == 1 else "replies"
    sent = sum(run.bytes for run in runs)
    counted = spent.trainings - spent.uncounted
    texts = [f"{_count(len(runs), 'run')}, {replies:,} {told}, {sent:,} bytes"]
    if counted:
        texts.append(
            f"ε = {shown_epsilon(found.epsilon)} (δ = {found.delta:g}) in "
            f"{_count(counted, 'training')}, for a user of this node, by one accountant over all "
            "runs"
        )
    if spent.uncounted:
        texts.append(
            f"{_count(spent.uncounted, 'training')} of which a node cannot count ε (dp = none or "
            "central, or no secret noise): what they gave away has no bound"
        )
    return texts


def _limits(found: "LedgerReport") -> list[str]:
    texts = []
    if found.left is not None:
        texts.append(f"limit max-total-epsilon = {found.total_limit:g}: {found.left:.3g} is left")
    if found.run_limit:
        texts.append(f"limit max-run-epsilon = {found.run_limit:g}, for each run")
    return texts or ["the owner has set no limit of ε (max-total-epsilon, max-run-epsilon)"]


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


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _day(time: str) -> str:
    return time.partition("T")[0]
