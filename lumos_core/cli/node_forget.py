"""``lumos node forget``: remove users from this node's disk."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lumos_core.cli.node_options import Data, Settings, SomeBundle, State, node_settings
from lumos_core.errors import ConfigError

if TYPE_CHECKING:  # it imports polars
    from lumos_core.config import NodeConfig
    from lumos_core.deployment.forgetting import Forgetting


def forget_command(
    bundle: SomeBundle = None,
    user: Annotated[
        list[str] | None, typer.Option("--user", metavar="ID", help="Id of a user; repeatable.")
    ] = None,
    derived: Annotated[
        bool,
        typer.Option(
            "--derived",
            help="Without --user: only what was made from users who are not in the data any more.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data: Data = None,
    state: State = None,
    settings: Settings = None,
) -> None:
    """Remove users from this node: data, views, caches, error feedback, kept models, error log.

    Everything is listed with its size before anything is removed, and so is what cannot be removed:
    models of the federation have learned from these users. The node must not be running; end
    'lumos run' and 'lumos views build' on its data as well. After an interruption the same command
    does the rest. The ledger notes how many users were forgotten, not who.
    """
    from lumos_core.deployment.forgetting import forgetting, only_this

    if bool(user) == derived:
        raise ConfigError(
            "expected either --user ID (repeatable), or --derived for users whose rows you have "
            "removed from the data yourself"
        )
    node = node_settings(bundle, data, state, settings)
    users = tuple(dict.fromkeys(text.strip() for text in user or []))
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if dry_run:
        _show(forgetting(node, users), console)
        console.print("nothing was removed (--dry-run)")
        return
    with only_this(node):
        found = forgetting(node, users)
        _show(found, console)
        if not yes:
            typer.confirm("Remove this?", abort=True)
        _carry_out(found, node, console)


def _show(found: "Forgetting", console: Console) -> None:
    from lumos_core.deployment.forgetting import what_remains

    if found.resumed:
        console.print("an earlier call was interrupted; this one does the rest as well\n")
    console.print("what is removed", style="bold")
    for step in found.steps:
        console.print(f"  {step.what:<18} {step.where} ({step.size:,} bytes)")
        console.print(f"  {'':<18} {step.text}")
    if not found.steps:
        console.print("  nothing: this node's disk holds nothing else of these users")
    console.print("\nwhat remains", style="bold")
    for text in what_remains(found):
        console.print(f"  {text}")
    console.print()


def _carry_out(found: "Forgetting", node: "NodeConfig", console: Console) -> None:
    try:
        for step in found.carry_out():
            console.print(f"{step.what}: done ({step.where})")
    except KeyboardInterrupt:
        console.print("interrupted: not everything was removed; give the same command again")
        raise typer.Exit(130) from None
    count = len(found.unfinished.users)
    left = found.removal.staying.users_text
    users = "1 user is" if count == 1 else f"{count} users are"
    who = f"{users} forgotten" if count else "what was made from users who are gone is removed"
    console.print(f"{who}; this node has {left} to train with. {node.state_folder}/ledger.jsonl "
                  "notes it without ids.")  # fmt: skip
