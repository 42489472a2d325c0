"""A run's folder: ``config.json``, the configuration it began with, and ``summary.json``, how it
ended.

Commands that resume a run check this folder before they write or start anything.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumos_core.config import RunConfig, first_difference
from lumos_core.data.catalog import Catalog, differing_versions, short_fingerprint
from lumos_core.errors import ConfigError, DataError
from lumos_core.runs.checkpoint import LATEST, load_checkpoint
from lumos_core.runs.folder_version import check_folder, open_folder
from lumos_core.runs.saved_config import CONFIG, SavedConfig
from lumos_core.runs.summary import SUMMARY, RunSummary


def read_config(run_dir: Path) -> RunConfig | None:
    """The configuration that the run in a folder began with; None if there is no run.

    Raises:
        ConfigError: the file cannot be read, is damaged or lacks keys.
        NewerFileError: a newer LUMOS wrote it.
    """
    check_folder(run_dir, "run")
    path = run_dir / CONFIG
    saved = SavedConfig.read_if_there(path)
    return None if saved is None else saved.checked(path)


def check_same_run(run_dir: Path, config: RunConfig) -> RunConfig | None:
    """Check that the run in a folder is the one that ``config`` describes.

    Returns:
        The configuration that the run began with; None if there is no run.

    Raises:
        ConfigError: it is another run, or its file is damaged.
    """
    saved = read_config(run_dir)
    if saved is None:
        return None
    if (key := first_difference(saved.to_flat(), config.to_flat())) is not None:
        before, now = saved.to_flat()[key], config.to_flat()[key]
        raise ConfigError(
            f"{run_dir / CONFIG}: the run there has {key} = {before!r}, found {now!r}; resume "
            "it with the value it was begun with, or begin another run with --run-dir"
        )
    return saved


def check_catalog(run_dir: Path, catalog: Catalog, path: Path) -> None:
    """Check that the model of the run in a folder, if it has one, is for this catalog.

    Args:
        run_dir: the run's folder.
        catalog: the catalog.
        path: the file that the catalog was read from.

    Raises:
        ConfigError: the model is for another catalog.
    """
    if not (run_dir / LATEST).exists():
        return
    theirs = load_checkpoint(run_dir / LATEST).progress.catalog
    if not catalog.is_known_as(theirs):
        ours = catalog.fingerprint
        raise ConfigError(
            f"{path}: has fingerprint {short_fingerprint(ours)}…, but the run in {run_dir} was "
            f"begun with {short_fingerprint(theirs)}…; resume it with the catalog.tsv that it was "
            f"begun with{differing_versions(theirs, ours)}"
        )


def write_config(run_dir: Path, config: RunConfig, nodes: Mapping[str, Any]) -> None:
    """Write ``config.json``; the folder is made if it is not there.

    Args:
        run_dir: the run's folder.
        config: the run's configuration.
        nodes: facts about its nodes, for people to read.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    open_folder(run_dir, "run")
    SavedConfig(run=dict(config.to_flat()), nodes=dict(nodes)).write(run_dir / CONFIG)


def read_nodes(run_dir: Path) -> dict[str, Any]:
    """The facts about its nodes that the run in a folder began with; none if there is no run.

    Raises:
        ConfigError: the file is damaged.
        NewerFileError: a newer LUMOS wrote it.
    """
    saved = SavedConfig.read_if_there(run_dir / CONFIG)
    return {} if saved is None else saved.nodes


def read_summary(run_dir: Path) -> RunSummary | None:
    """``summary.json`` of a run that has ended; None if there is none.

    Raises:
        DataError: the file is damaged, or lacks a key that its readers need.
        NewerFileError: a newer LUMOS wrote it.
    """
    path = run_dir / SUMMARY
    summary = RunSummary.read_if_there(path)
    if summary is None:
        return None
    needed = ("reason", "rounds", "best_round", "test")
    if missing := summary.missing(*(needed if summary.outcome == "completed" else needed[:1])):
        raise DataError(f"{path}: key '{missing}' is missing; {RunSummary.repair}")
    return summary
