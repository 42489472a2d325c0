"""The ServerApp: reads the run's configuration and catalog, runs the round loop over a Flower
transport and writes ``summary.json``, the only file that says whether the run succeeded.

(Flower reports "completed" whenever this process ends without an exception, and its command line
exits with 0 even if there was one. So supervisors must read the summary.)
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from lumos_core import logs
from lumos_core.config import NODE_NAMES, RunConfig
from lumos_core.errors import ConfigError, FederationError
from lumos_core.flower import bounded_pulls, fast_polling
from lumos_core.flower.registered_nodes import LiveNames
from lumos_core.runs.history import OnEvent

if TYPE_CHECKING:
    from lumos_core.federation.round_loop import FederationResult
    from lumos_core.privacy.secure_aggregation.primitives import Primitives

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation.

    Raises:
        LumosError: the run could not start, or it failed; the summary says so as well. If the
            SuperLink is gone, no summary is written: another process may resume the run.
    """
    config = RunConfig.from_flat(context.run_config)
    logs.configure(config.log_format, config.log_level)  # Flower forwards stderr
    bounded_pulls.install()
    if fast_polling.wanted():
        fast_polling.shorten_pulls()
    from lumos_core.federation.recorded import recorded
    from server_app.grid_transport import LinkLostError

    run_dir = Path(config.run_dir or f"runs/{context.run_id}")
    summary = recorded(
        config, run_dir, lambda observe: _federate(grid, config, run_dir, observe), (LinkLostError,)
    )
    if summary.outcome != "completed":
        raise FederationError(summary.reason)


def _federate(grid: Grid, config: RunConfig, run_dir: Path, observe: OnEvent) -> "FederationResult":
    from lumos_core.data.catalog import Catalog
    from lumos_core.data.catalog_versions import Lineage
    from lumos_core.federation.round_loop import run_federation
    from lumos_core.federation.warm_start import first_params
    from lumos_core.runs.attendance import ATTENDANCE, AttendanceBook
    from lumos_core.runs.identity import RunIdentity
    from lumos_core.views.titles.artefact_offer import Offer
    from server_app.grid_transport import GridTransport

    if not config.catalog:
        raise ConfigError("key 'catalog' is required: the path of catalog.tsv on the server")
    catalog = Catalog.read(Path(config.catalog))
    offer = Offer.of(config, catalog)
    lineage = Lineage.of(catalog)
    initial, start = first_params(config, catalog, run_dir)
    with AttendanceBook(run_dir / ATTENDANCE).kept() as book:
        transport = GridTransport(
            grid,
            catalog.fingerprint,
            registered=_registered_names(),
            attendance=book,
            run=RunIdentity.of(run_dir).run,
        )
        return run_federation(  # resumes what is there: a restarted server loses nothing
            config, transport, catalog.fingerprint, initial, run_dir=run_dir, on_event=observe,
            resume=True, primitives=_primitives(config), known_as=catalog.is_known_as,
            on_refused=book.refuse, started=start.event() if start else None,
            offer=offer, lineage=lineage,
        )  # fmt: skip


def _primitives(config: RunConfig) -> "Primitives | None":
    """The cryptography, if the run needs it."""
    if not config.secure_aggregation:
        return None
    from lumos_core.flower.cryptography import FLOWER

    return FLOWER


def _registered_names() -> LiveNames | None:
    """Node id → name, as it is at the moment; None if the operator has not registered the nodes'
    keys under names."""
    path = os.environ.get(NODE_NAMES)
    if path is None:
        return None
    return LiveNames(Path(path))
