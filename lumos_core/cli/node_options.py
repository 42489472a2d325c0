"""Options that commands of ``lumos node`` share, and the settings that follow from them."""

from pathlib import Path
from typing import Annotated

import typer

from lumos_core.cli.options import assignments, with_options
from lumos_core.config import NodeConfig
from lumos_core.deployment.folders import NodeBundle
from lumos_core.errors import ConfigError
from lumos_core.views.llm.find import BUNDLED

Bundle = Annotated[Path, typer.Argument(help="This node's folder, from 'lumos node init'.")]
SomeBundle = Annotated[
    Path | None,
    typer.Argument(
        help="This node's folder, from 'lumos node init'; without it, --data says which node."
    ),
]
Data = Annotated[Path | None, typer.Option(help="Folder with catalog.tsv and interactions.tsv.")]
State = Annotated[
    Path | None, typer.Option(help="Folder for views, ledger and logs (default: DATA/state).")
]
SuperLink = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="The server, if not the one in node.toml.")
]
Llm = Annotated[str | None, typer.Option(help="Local LLM, if not the one of the run.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--config", "-c", metavar="KEY=VALUE", help="Any key of node.toml; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead.")]


def read_bundle(
    bundle: Path,
    data: Path | None,
    state: Path | None,
    superlink: str | None,
    llm: str | None,
    settings: list[str] | None,
) -> NodeBundle:
    """The node's folder, with the options of the command line on top of its settings."""
    options = {
        "data": str(data.resolve()) if data else None,
        "state": str(state.resolve()) if state else None,
        "superlink": superlink,
        "llm": _absolute(llm) if llm else None,
    }
    changes = with_options(assignments(settings or []), options)
    return NodeBundle.read(bundle, changes)


def node_settings(
    bundle: Path | None, data: Path | None, state: Path | None, settings: list[str] | None
) -> NodeConfig:
    """The settings of a node that need not be one of a deployment: its data folder is enough."""
    if bundle is not None:
        return read_bundle(bundle, data, state, None, None, settings).config
    if data is None:
        raise ConfigError(
            "which node? give its folder from 'lumos deploy init', or, of a node without one (as "
            "for 'lumos run'), --data with its data folder, such as --data data/node-0"
        )
    options = {
        "data": str(data.resolve()),
        "state": str(state.resolve()) if state else None,
    }
    return NodeConfig.from_flat(with_options(assignments(settings or []), options))


def _absolute(llm: str) -> str:
    """The absolute path of a model that is a file or folder, as the node's processes run in another
    folder; the name of any other model is unchanged."""
    path = Path(llm).expanduser()
    return str(path.resolve()) if llm != BUNDLED and path.exists() else llm
