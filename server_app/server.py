"""The ServerApp: reads the run's configuration and catalog, hands the round loop a Flower transport
and writes ``summary.json``, which alone says whether the run succeeded.

(Flower reports "completed" whenever this process ends without an exception, and its command line
exits 0 even with one; supervisors must look at the summary.)
"""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from lumos_core import logs
from lumos_core.config import NODE_NAMES, RunConfig
from lumos_core.errors import ConfigError, FederationError, LumosError
from lumos_core.flower import fast_polling
from lumos_core.flower.registered_nodes import RegisteredNodes
from lumos_core.runs.lock import only_server
from lumos_core.runs.summary import SUMMARY, RunSummary

if TYPE_CHECKING:
    from lumos_core.privacy.secure_aggregation.primitives import Primitives

_PACKAGES = ("flwr", "torch", "numpy")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation.

    Raises:
        LumosError: the run could not start, or it failed; the summary says so as well, except when
            the SuperLink is gone: then the run may go on in another process.
    """
    config = RunConfig.from_flat(context.run_config)
    logs.configure(config.log_format, config.log_level)  # Flower forwards what goes to stderr
    if fast_polling.wanted():
        fast_polling.shorten_pulls()
    run_dir = Path(config.run_dir or f"runs/{context.run_id}")
    with only_server(run_dir):
        _run_and_write(grid, config, run_dir)


def _run_and_write(grid: Grid, config: RunConfig, run_dir: Path) -> None:
    from server_app.grid_transport import LinkLostError

    started = time.time()
    try:
        summary = _run(grid, config, run_dir)
    except LinkLostError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, LumosError) else type(error).__name__
        _write(run_dir, config, started, RunSummary(outcome="failed", reason=reason))
        raise
    _write(run_dir, config, started, summary)
    if summary.outcome != "completed":
        raise FederationError(summary.reason)


def _run(grid: Grid, config: RunConfig, run_dir: Path) -> RunSummary:
    from lumos_core.data.catalog import Catalog
    from lumos_core.federation.round_loop import run_federation
    from lumos_core.learning.title_start import initial_params
    from lumos_core.runs.observers import observing
    from lumos_core.runs.view_coverage import RunViews
    from server_app.grid_transport import GridTransport

    if not config.catalog:
        raise ConfigError("key 'catalog' is required: the path of catalog.tsv on the server")
    catalog = Catalog.read(Path(config.catalog))
    initial = initial_params(config, catalog)
    transport = GridTransport(grid, catalog.fingerprint, registered=_registered_names())
    with observing(config, run_dir) as observe:
        result = run_federation(  # goes on with what is there: a restarted server loses nothing
            config, transport, catalog.fingerprint, initial, run_dir=run_dir, on_event=observe,
            resume=True, primitives=_primitives(config), known_as=catalog.is_known_as,
        )  # fmt: skip
    views = RunViews.of(config.to_flat(), result.events)
    return RunSummary(
        outcome=result.outcome,
        reason=result.reason,
        rounds=result.rounds,
        best_round=result.best_round,
        validation=result.validation,
        test=result.test,
        epsilon=result.epsilon,
        views=views,
        bytes_up=sum(e.get("bytes_up", 0) for e in result.events),
        bytes_down=sum(e.get("bytes_down", 0) for e in result.events),
    )


def _primitives(config: RunConfig) -> "Primitives | None":
    """The cryptography, where the run needs it."""
    if not config.secure_aggregation:
        return None
    from lumos_core.flower.cryptography import FLOWER

    return FLOWER


def _registered_names() -> dict[int, str] | None:
    """Node id → name, where the operator has registered the nodes' keys under names."""
    path = os.environ.get(NODE_NAMES)
    if path is None:
        return None
    return RegisteredNodes.read(Path(path)).names()


def _write(run_dir: Path, config: RunConfig, started: float, summary: RunSummary) -> None:
    facts: dict[str, Any] = {
        "method": config.method,
        "seed": config.seed,
        "seconds": round(time.time() - started, 2),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
    }
    summary.model_copy(update=facts).write(run_dir / SUMMARY)
