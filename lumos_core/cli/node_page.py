"""``lumos node page``: the page for a node's owner."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lumos_core.cli.node_options import Data, Settings, SomeBundle, State, node_settings

if TYPE_CHECKING:
    from lumos_core.config import NodeConfig
    from lumos_core.serving.newest_model import Newest
    from lumos_core.serving.owner_service import Owner

PORT = 8090


def page_command(
    bundle: SomeBundle = None,
    data: Data = None,
    state: State = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = PORT,
    settings: Settings = None,
) -> None:
    """Show a page for this node's owner, on this machine only.

    What left this machine and when, under which privacy and limits, ε so far, the model that is
    kept, three example recommendations with their reasons; pause and resume the node, forget a
    user. 'lumos serve' has the same page at /.
    """
    node = node_settings(bundle, data, state, settings)
    # these import torch and polars
    import torch

    from lumos_core import logs
    from lumos_core.serving.access_token import Access
    from lumos_core.serving.http_service import http_service
    from lumos_core.serving.listening import (
        LIBRARY_LOGS,
        open_socket,
        serve_until_signal,
        url_of,
    )
    from lumos_core.serving.newest_model import Newest

    logs.configure(node.log_format, node.log_level, others=LIBRARY_LOGS)
    torch.set_num_threads(1)
    newest = Newest(Path(node.data), node.state_folder)
    listening = open_socket("127.0.0.1", port)
    service = http_service(newest, Access("127.0.0.1"), owner=owner_of(node, newest))
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"the page of this node: {url_of(listening)}/  Ctrl-C ends it")
    try:
        serve_until_signal(service, listening, newest)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def owner_of(node: "NodeConfig", newest: "Newest") -> "Owner":
    """The node as its owner's page needs it."""
    from lumos_core.serving.owner_service import Owner

    return Owner(node, newest, _Forget(node))


@dataclass(frozen=True)
class _Plan:
    removed: Sequence[tuple[str, str]]
    remains: Sequence[str]


@dataclass(frozen=True)
class _Forget:
    """``lumos node forget`` for the page."""

    node: "NodeConfig"

    def plan(self, user: str) -> _Plan:
        from lumos_core.deployment.forgetting import forgetting, only_this, what_remains

        with only_this(self.node):  # so that it is said now that the node must be ended first
            found = forgetting(self.node, (user,))
            steps = [(step.what, step.text) for step in found.steps]
            return _Plan(steps, list(what_remains(found)))

    def carry_out(self, user: str) -> str:
        from lumos_core.deployment.forgetting import forgetting, only_this

        with only_this(self.node):
            found = forgetting(self.node, (user,))
            for _ in found.carry_out():
                pass
        left = found.removal.staying.users_text
        return f"The user is forgotten; this node has {left} to train with."
