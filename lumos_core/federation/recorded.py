"""A run that is recorded in its folder: one server at a time, observers, and ``summary.json``."""

import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from lumos_core.config import RunConfig
from lumos_core.errors import LumosError
from lumos_core.federation.round_loop import FederationResult
from lumos_core.runs.history import OnEvent
from lumos_core.runs.lock import only_server
from lumos_core.runs.observers import observing
from lumos_core.runs.summary import SUMMARY, RunSummary
from lumos_core.runs.view_coverage import RunViews

PACKAGES = ("flwr", "torch", "numpy")
"""Packages that the result of a run depends on."""


def recorded(
    config: RunConfig,
    run_dir: Path,
    federate: Callable[[OnEvent], FederationResult],
    unfinished: tuple[type[Exception], ...] = (),
) -> RunSummary:
    """Run a federation and write how it ended.

    Args:
        config: of the run; says who observes it.
        run_dir: the run's folder, made if it is not there.
        federate: runs the federation, with a callback for its events.
        unfinished: errors after which the run continues in another process; no summary is
            written then.

    Returns:
        The summary; look at its ``outcome``.

    Raises:
        FederationError: another server works in the folder.
        Exception: whatever ``federate`` raises; the summary then says "failed".
    """
    started = time.time()
    with only_server(run_dir):
        try:
            with observing(config, run_dir) as observe:
                summary = _summary_of(config, federate(observe))
        except unfinished:
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, LumosError) else type(error).__name__
            _write(run_dir, config, started, RunSummary(outcome="failed", reason=reason))
            raise
        return _write(run_dir, config, started, summary)


def _summary_of(config: RunConfig, result: FederationResult) -> RunSummary:
    return RunSummary(
        outcome=result.outcome,
        reason=result.reason,
        rounds=result.rounds,
        best_round=result.best_round,
        validation=result.validation,
        test=result.test,
        title_weight=result.title_weight if any(config.title_weights) else None,
        epsilon=result.epsilon,
        views=RunViews.of(config.to_flat(), result.events),
        bytes_up=sum(e.get("bytes_up", 0) for e in result.events),
        bytes_down=sum(e.get("bytes_down", 0) for e in result.events),
    )


def _write(run_dir: Path, config: RunConfig, started: float, summary: RunSummary) -> RunSummary:
    facts = {
        "method": config.method,
        "seed": config.seed,
        "seconds": round(time.time() - started, 2),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
    }
    complete = summary.model_copy(update=facts)
    complete.write(run_dir / SUMMARY)
    return complete
