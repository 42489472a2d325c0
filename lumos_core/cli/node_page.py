"""``lumos node page``: the page for a node's owner."""

from typing import Annotated

import typer
from rich.console import Console

from lumos_core.cli.node_options import Data, Settings, SomeBundle, State, node_settings
from lumos_core.cli.node_service import NodeService

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
    service = NodeService.of(node, "127.0.0.1", port)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"the page of this node: {service.url}/  Ctrl-C ends it")
    try:
        service.run()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
