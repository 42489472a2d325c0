"""``lumos node pause`` and ``lumos node resume``."""

import typer

from lumos_core.cli.node_options import Data, Settings, SomeBundle, State, node_settings
from lumos_core.federation.owner_pause import pause, resume


def pause_command(
    bundle: SomeBundle = None, data: Data = None, state: State = None, settings: Settings = None
) -> None:
    """Take no part until 'lumos node resume': nothing of the data leaves, whatever a server asks.

    The node may go on running; it answers that it is paused. A message that it works on already is
    finished. A pause outlasts restarts.
    """
    node = node_settings(bundle, data, state, settings)
    fresh = pause(node.state_folder)
    typer.echo("paused" if fresh else "it was paused already")


def resume_command(
    bundle: SomeBundle = None, data: Data = None, state: State = None, settings: Settings = None
) -> None:
    """Take part again. The server asks a node that was paused after some time by itself."""
    node = node_settings(bundle, data, state, settings)
    ended = resume(node.state_folder)
    typer.echo("resumed; the server asks this node again by itself" if ended else "not paused")
