"""A run's folder: ``config.json``, what it was begun with, and ``summary.json``, how it ended.

Commands that resume a run look here before they write or start anything.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumos_core.config import RunConfig, first_difference
from lumos_core.data.catalog import Catalog, differing_versions, short_fingerprint
from lumos_core.errors import ConfigError, DataError, reason_of
from lumos_core.runs.checkpoint import LATEST, load_checkpoint
from lumos_core.runs.history import SUMMARY
from lumos_core.safe_files import write_json

CONFIG = "config.json"
_ALWAYS = ("method", "seed", "rounds", "catalog", "min-nodes", "min-replies")
"""Keys that every version has written; others may be newer than a run and have their defaults."""
_DAMAGED = "it is damaged: remove it, and the same command goes on with the run"
_MEND = "put a whole copy of it back, or begin another run with another --run-dir"


def read_config(run_dir: Path) -> RunConfig | None:
    """What the run in a folder was begun with; None if there is none.

    Raises:
        ConfigError: the file cannot be read, is damaged or lacks keys.
    """
    path = run_dir / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {reason_of(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON ({error}); it is damaged: {_MEND}") from None
    return _checked(path, found)


def check_same_run(run_dir: Path, config: RunConfig) -> RunConfig | None:
    """What the run in a folder was begun with, if it is the one that ``config`` describes.

    Raises:
        ConfigError: it is another run, or its file is damaged.
    """
    saved = read_config(run_dir)
    if saved is None:
        return None
    if (key := first_difference(saved.to_flat(), config.to_flat())) is not None:
        before, now = saved.to_flat()[key], config.to_flat()[key]
        raise ConfigError(
            f"{run_dir / CONFIG}: the run there has {key} = {before!r}, found {now!r}; go on with "
            "it as it was begun, or begin another one with --run-dir"
        )
    return saved


def check_catalog(run_dir: Path, catalog: Catalog, path: Path) -> None:
    """Check that the model of the run in a folder, if it has one, is for a catalog.

    Args:
        run_dir: the run's folder.
        catalog: the catalog.
        path: where it was read from.

    Raises:
        ConfigError: it is for another.
    """
    if not (run_dir / LATEST).exists():
        return
    theirs = load_checkpoint(run_dir / LATEST).progress.catalog
    if not catalog.is_known_as(theirs):
        ours = catalog.fingerprint
        raise ConfigError(
            f"{path}: has fingerprint {short_fingerprint(ours)}…, but the run in {run_dir} was "
            f"begun with {short_fingerprint(theirs)}…; go on with the catalog.tsv that it was "
            f"begun with{differing_versions(theirs, ours)}"
        )


def write_config(run_dir: Path, config: RunConfig, nodes: Mapping[str, Any]) -> None:
    """Write the file, and the folder if need be.

    Args:
        run_dir: the run's folder.
        config: of the run.
        nodes: what is known about its nodes, for people.
    """
    write_json(run_dir / CONFIG, {"run": config.to_flat(), "nodes": nodes})


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """``summary.json`` of a run that has ended.

    Raises:
        DataError: the file is damaged.
    """
    path = run_dir / SUMMARY
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}); {_DAMAGED}") from None
    summary: dict[str, Any] = found if isinstance(found, dict) else {}
    needed = {"outcome", "reason"}
    if summary.get("outcome") == "completed":
        needed |= {"rounds", "best_round", "test"}
    if missing := sorted(needed - summary.keys()):
        raise DataError(f"{path}: key '{missing[0]}' is missing; {_DAMAGED}")
    return summary


def _checked(path: Path, found: Any) -> RunConfig:
    run = found.get("run") if isinstance(found, dict) else found
    if not isinstance(run, dict):
        raise ConfigError(
            f"{path}: found {json.dumps(run)[:60]}, expected a JSON object whose key 'run' holds "
            f"the keys of a run; it is damaged: {_MEND}"
        )
    for key in _ALWAYS:
        if run.get(key, "") == "":
            raise ConfigError(f"{path}: key '{key}' of 'run' is missing; it is damaged: {_MEND}")
    try:
        return RunConfig.from_flat(run)
    except ConfigError as error:
        raise ConfigError(
            f"{path}: {error}; it is damaged or of another version of LUMOS: {_MEND}"
        ) from None
