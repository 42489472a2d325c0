"""``lumos node``: a node of a federation across machines."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lumos_core.cli.node_forget import forget_command
from lumos_core.cli.node_ingest import ingest_command
from lumos_core.cli.node_ledger import ledger_command
from lumos_core.cli.node_options import (
    Bundle,
    Data,
    Json,
    Llm,
    Settings,
    State,
    SuperLink,
    read_bundle,
)
from lumos_core.cli.node_page import page_command
from lumos_core.cli.node_pause import pause_command, resume_command
from lumos_core.deployment import node_keys
from lumos_core.deployment.folders import NODE_KEY, NODE_SETTINGS, NodeBundle
from lumos_core.deployment.node_supervisor import check, keep_running, state_folder
from lumos_core.errors import ConfigError, DataError
from lumos_core.federation.owner_floor import Refusal, policy
from lumos_core.privacy.ledger_words import shown_epsilon
from lumos_core.privacy.node_budget import FILE, Account, AccountError, Spent, bounded

node_app = typer.Typer(name="node", help="A node on this machine.", no_args_is_help=True)


@node_app.command("init")
def init_command(
    folder: Annotated[Path, typer.Argument(help="This node's folder; made if it is not there.")],
    name: Annotated[
        str | None,
        typer.Option(
            help="The node's name (default: as in node.toml, or the folder's).", show_default=False
        ),
    ] = None,
    superlink: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="The server's address, if it is known.", show_default=False
        ),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="The server's ca.crt, if it is here.", show_default=False)
    ] = None,
    new: Annotated[
        bool,
        typer.Option(
            "--new-key", help="Make the key that is to take the place of the present one."
        ),
    ] = False,
) -> None:
    """Make this node's key pair here; only its public half, NAME.pub, goes to the server.

    Writes node.key, NAME.pub, and node.toml and ca.crt where they are missing. Keys are never
    overwritten.
    """
    if name is None:
        has_settings = (folder / NODE_SETTINGS).exists()
        name = node_keys.name_of(folder) if has_settings else folder.resolve().name
    if new and (superlink or ca):
        raise ConfigError("--new-key only makes a key: without --superlink and --ca")
    made = node_keys.new_key(folder, name) if new else node_keys.init(folder, name, superlink, ca)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"private  {made.private}  stays on this machine")
    console.print(f"public   {made.public}  to the server's operator")
    console.print(f"         {made.key.fingerprint}")
    console.print("         read this fingerprint to the operator, by phone for example")
    command = "rotate-node" if new else "add-node"
    console.print(
        f"\noperator:  lumos deploy {command} SERVER {name} --public-key {made.public.name} "
        "--fingerprint SHA256:…"
    )
    if new:
        console.print(f"then here: mv {made.private} {folder / NODE_KEY}, and start the node again")
        return
    for text in made.missing:
        console.print(f"missing:   {text}")
    console.print(f"then here: lumos node start {folder} --data DATA")


@node_app.command("start")
def start_command(
    bundle: Bundle,
    data: Data = None,
    state: State = None,
    superlink: SuperLink = None,
    llm: Llm = None,
    settings: Settings = None,
    runtime_port: Annotated[
        int, typer.Option(min=0, help="Loopback port for this node's processes; 0: any free one.")
    ] = 0,
) -> None:
    """Take part until interrupted; a process that dies is started again.

    Data, key and certificate are checked before anything starts. While the server cannot be
    reached, the node waits for it. It runs the LUMOS that is installed here, and no other app that
    the server sends, unless approved-apps in node.toml has the app's digest.
    """
    console = Console(soft_wrap=True)
    ready = _checked(bundle, data, state, superlink, llm, settings, console)
    try:
        keep_running(ready, runtime_port, console)
    except KeyboardInterrupt:
        console.print("[yellow]interrupted; every process was ended[/]")
        raise typer.Exit(130) from None


@node_app.command("check")
def check_command(
    bundle: Bundle,
    data: Data = None,
    state: State = None,
    superlink: SuperLink = None,
    llm: Llm = None,
    settings: Settings = None,
) -> None:
    """Check what 'lumos node start' would check, and start nothing."""
    console = Console(soft_wrap=True)
    _checked(bundle, data, state, superlink, llm, settings, console)
    console.print("[green]ready[/]")


@node_app.command("app-digest")
def app_digest_command(
    fab: Annotated[
        Path | None,
        typer.Argument(help="An app as 'flwr build' writes it (default: the installed LUMOS)."),
    ] = None,
) -> None:
    """Print the digest of an app, for approved-apps in node.toml.

    Server and node have the same LUMOS if the digests are equal. A node that refuses another app
    prints that one's digest.
    """
    from lumos_core.flower import commands

    typer.echo(commands.app_digest(fab))


@node_app.command("policy")
def policy_command(
    bundle: Bundle,
    data: Data = None,
    state: State = None,
    llm: Llm = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Show what a server may ask of this node, what it may not, and what runs have spent so far.

    The limits are the owner's, in node.toml; no run's configuration can go below them.
    """
    ready = read_bundle(bundle, data, state, None, llm, settings)
    place = state_folder(ready)
    try:
        spent = Account(place).read()
    except AccountError as error:
        raise DataError(str(error)) from None
    found = {
        "node": ready.config.name,
        "limits": policy(ready.config),
        "spent": _spent(spent, ready.config.epsilon_delta),
        "last_refusal": _refusal(place),
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print_policy(found, place)


node_app.command("page")(page_command)
node_app.command("pause")(pause_command)
node_app.command("resume")(resume_command)
node_app.command("forget")(forget_command)
node_app.command("ingest")(ingest_command)
node_app.command("ledger")(ledger_command)


def _spent(spent: Spent, delta: float) -> dict[str, Any]:
    """What runs have spent; ε is None where it has no bound."""
    return {
        "epsilon": bounded(spent.epsilon(delta)),
        "delta": delta,
        "trainings": spent.trainings,
        "without_epsilon": spent.uncounted,
        "day": spent.day,
        "trainings_today": spent.trainings_today,
        "bytes_today": spent.bytes_today,
        "runs": [
            {
                "run": run.run,
                "trainings": run.trainings,
                "epsilon": bounded(spent.epsilon_of(run.run, delta)),
            }
            for run in spent.runs
        ],
    }


def _refusal(state: Path) -> dict[str, Any] | None:
    found = Refusal.of_node(state)
    if found is None:
        return None
    when = datetime.fromtimestamp(found.time, UTC).isoformat(timespec="seconds")
    return {"time": when, "reasons": list(found.sentences)}


def _print_policy(found: dict[str, Any], state: Path) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"{found['node']}: what a server may ask of this node", style="bold")
    for key, limit in found["limits"].items():
        console.print(f"  {key:<27} {limit['means']}")
    spent = found["spent"]
    console.print(f"\nspent so far, as {state / FILE} has it", style="bold")
    epsilon, unknown = shown_epsilon(spent["epsilon"]), spent["without_epsilon"]
    counted = spent["trainings"] - unknown
    console.print(f"  all runs: ε = {epsilon} (δ = {spent['delta']:g}) in {counted} trainings")
    if unknown:
        console.print(
            f"  {unknown} more trainings, of which a node cannot count ε (dp = none or central, or "
            "no secret noise)"
        )
    console.print(
        f"  today, {spent['day']} (UTC): {spent['trainings_today']} trainings, "
        f"{spent['bytes_today']:,} bytes sent"
    )
    for run in spent["runs"]:
        epsilon = shown_epsilon(run["epsilon"])
        console.print(f"  run {run['run']}: {run['trainings']} trainings, ε = {epsilon}")
    if (last := found["last_refusal"]) is not None:
        console.print(f"\nlast refusal, {last['time']}", style="bold")
        for reason in last["reasons"]:
            console.print(f"  {reason}")


def _checked(
    bundle: Path,
    data: Path | None,
    state: Path | None,
    superlink: str | None,
    llm: str | None,
    settings: list[str] | None,
    console: Console,
) -> NodeBundle:
    ready = read_bundle(bundle, data, state, superlink, llm, settings)
    for line in check(ready):
        console.print(line)
    return ready
