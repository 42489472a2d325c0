"""The page of ``lumos status --web`` and ``lumos run --web``."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from lumos_core.deployment.supervision import RUNNING
from lumos_core.errors import DataError
from lumos_core.pages.live_server import serving_live
from lumos_core.pages.page import Page, Snapshot
from lumos_core.runs.history import HISTORY
from lumos_core.runs.live_page import live_snapshot
from lumos_core.runs.lock import is_held
from lumos_core.runs.series_file import is_series
from lumos_core.runs.series_page import series_snapshot

PORT = 8900

Web = Annotated[
    bool, typer.Option("--web", help="Show the run on a page for browsers that is kept up to date.")
]
Host = Annotated[
    str,
    typer.Option(
        help="With --web: address to listen on. Any other than loopback gets a token, which the "
        "printed address holds."
    ),
]
Port = Annotated[
    int, typer.Option(min=0, max=65535, help="With --web: the port; 0 for any that is free.")
]


def watching(run_dir: Path, host: str, port: int) -> AbstractContextManager[str]:
    """Serve the page of the run or of the series in a folder; yields its address.

    Raises:
        ConfigError: the address cannot be bound.
    """
    return serving_live(_look_at(run_dir), run_dir.name, host, port)


def _look_at(run_dir: Path) -> Callable[[], Snapshot]:
    def look() -> Snapshot:
        if is_series(run_dir):
            return series_snapshot(run_dir, is_held(run_dir, RUNNING))
        try:
            return live_snapshot(run_dir)
        except DataError:
            if (run_dir / HISTORY).exists():
                raise
            return Snapshot(_STARTING, "The run is starting.")

    return look


_STARTING = Page(
    title="The run is starting",
    kicker="LUMOS",
    lead="Nothing has been written into its folder yet. This page fills by itself.",
)
