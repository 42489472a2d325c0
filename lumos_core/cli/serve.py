"""``lumos serve``: a node's recommendations over HTTP."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lumos_core.cli.node_options import Data, Settings, SomeBundle, State, node_settings
from lumos_core.cli.node_service import NodeService

if TYPE_CHECKING:
    from lumos_core.serving.access_token import Access


_TOKEN = "TOKEN"  # as it is printed; the terminal may be seen by others


def serve_command(
    bundle: SomeBundle = None,
    data: Data = None,
    state: State = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Exported folder, run folder or model file (default: the newest model that this "
            "node kept from training)."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token that requests must bring (default: none on loopback, "
            "otherwise STATE/serve-token, which is made).",
            show_default=False,
        ),
    ] = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Recommend items of the history, too.")
    ] = False,
    settings: Settings = None,
) -> None:
    """Answer requests for recommendations from local histories. Nothing is sent elsewhere.

    GET /recommend?user=ID&k=10, POST /recommend with {"items": [ID, ...], "k": 10}, /health,
    /metrics, and at / the page of 'lumos node page'. A newer model and newer data are taken into
    use without a restart. Nothing of a request is logged.
    """
    node = node_settings(bundle, data, state, settings)
    service = NodeService.of(
        node, host, port,
        token_file=token_file, model=model, include_seen=include_seen, threads=node.threads,
    )  # fmt: skip
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"serving {service.url}  {_who(service.access)}")
    address = f"?token={_TOKEN}" if service.access.token else ""
    console.print(f"for this node's owner: {service.url}/{address}")
    if service.newest.served.version is None:
        console.print("no model yet: requests are answered with 503 until this node has kept one")
    try:
        service.run()
    except KeyboardInterrupt:
        console.print("interrupted; requests in progress were answered")
        raise typer.Exit(130) from None


def _who(access: "Access") -> str:
    if not access.token:
        return "for programs on this machine, without a token"
    return (
        f"for whoever has the token in {access.origin}; what travels is not encrypted: put a "
        "proxy with TLS before it, or keep it to a private network"
    )
