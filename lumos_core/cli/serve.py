"""``lumos serve``: a node's recommendations over HTTP."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lumos_core.cli.node_options import Data, Settings, SomeBundle, State, node_settings
from lumos_core.cli.node_page import owner_of

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
    torch.set_num_threads(1)  # of each ranking: more threads cost more than they save
    console = Console(soft_wrap=True, highlight=False, markup=False)
    access = Access.of(host, token_file, node.state_folder)
    newest = Newest(Path(node.data), node.state_folder, model, include_seen=include_seen)
    listening = open_socket(host, port)
    console.print(f"serving {url_of(listening)}  {_who(access)}")
    address = f"?token={_TOKEN}" if access.token else ""
    console.print(f"for this node's owner: {url_of(listening)}/{address}")
    if newest.served.version is None:
        console.print("no model yet: requests are answered with 503 until this node has kept one")
    try:
        owner = owner_of(node, newest)
        service = http_service(newest, access, threads=node.threads, owner=owner)
        serve_until_signal(service, listening, newest)
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
