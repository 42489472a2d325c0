"""What a run is about to do, checked before anything is written or any process starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lumos_core.config import NodeConfig, RunConfig, load_plugins
from lumos_core.data import Catalog, Sequences
from lumos_core.data.layout import CATALOG_FILE
from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import load_prepared, node_folders, prepared_noun
from lumos_core.data.sample import SAMPLE_DOMAIN, bundled_sample
from lumos_core.errors import ConfigError
from lumos_core.flower import fast_polling
from lumos_core.learning.devices import check_device
from lumos_core.privacy.secure_aggregation.participant import MIN_NODES
from lumos_core.runs.folder import check_catalog, check_same_run, read_config
from lumos_core.runs.observers import check_tracker
from lumos_core.runs.saved_config import CONFIG

DEFAULT_NODES = 3
START_TIMEOUT = 86_400.0  # seconds; nodes of other people may be started tomorrow


# ---------------------------------------------------------------- on this computer
@dataclass(frozen=True)
class LocalPlan:
    """A federation on this computer; everything in it has been checked.

    Attributes:
        node_settings: keys of :class:`~lumos_core.config.NodeConfig` for all nodes.
        data: the prepared folder.
        folders: the nodes' folders in it.
        sequences: the nodes' histories.
    """

    config: RunConfig
    node_settings: Mapping[str, str]
    run_dir: Path
    data: Path
    folders: list[Path]
    catalog: Catalog
    sequences: list[Sequences]


def plan_local(
    flat: Mapping[str, Any],
    node_settings: Mapping[str, str],
    data: Path | None,
    nodes: int | None,
    run_dir: Path | None,
    resume: bool,
) -> LocalPlan:
    """Check configuration and data.

    Args:
        flat: keys of the run that were given.
        node_settings: keys of the nodes that were given.
        data: a prepared folder; None for the bundled sample, or the data of the run to go on with.
        nodes: their number, if it was given.
        run_dir: None for a new one.
        resume: go on with the run in ``run_dir``.

    Raises:
        ConfigError, DataError: something is wrong with them.
    """
    fast_polling.poll_seconds()
    if resume:
        saved = _saved_config(run_dir)
        flat = {**saved.to_flat(), **flat}
        data = data or Path(saved.catalog).parent
    _check_parts(RunConfig.from_flat(flat))
    try:
        check_device(NodeConfig.from_flat({"data": ".", **node_settings}).device)
    except ConfigError as error:
        raise ConfigError(f"-c node.…: {error}") from None
    count = nodes or DEFAULT_NODES
    if data is not None:
        count = len(node_folders(data))
        if nodes not in (None, count):
            raise ConfigError(
                f"--nodes {nodes}: {data} is prepared for {count} nodes; leave --nodes out or "
                f"prepare the data again with --nodes {nodes}"
            )
    config = for_nodes({**_told_by(data), **flat}, count)
    run_dir = run_dir or _new_run_dir(config)
    if data is None:
        # beside the runs, not in this one: the next run finds the views that this one stores
        data = run_dir.parent / f"bundled-{count}-nodes-seed-{config.seed}"
        prepare(bundled_sample(), data, nodes=count, seed=config.seed, domain=SAMPLE_DOMAIN)
    config = config.replace(catalog=str(data / CATALOG_FILE))
    if resume:
        check_same_run(run_dir, config)  # before baselines are started beside it
    catalog, sequences = load_prepared(data)
    if resume:
        check_catalog(run_dir, catalog, Path(config.catalog))
    folders = node_folders(data)
    return LocalPlan(config, node_settings, run_dir, data, folders, catalog, sequences)


def _saved_config(run_dir: Path | None) -> RunConfig:
    """The configuration of the run to go on with.

    Raises:
        ConfigError: there is no run, or its file is damaged.
    """
    if run_dir is None:
        raise ConfigError("--resume needs --run-dir, the folder of the run to go on with")
    saved = read_config(run_dir)
    if saved is None:
        raise ConfigError(f"--resume: {run_dir} holds no run (no {CONFIG})")
    return saved


def _new_run_dir(config: RunConfig) -> Path:
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{config.method}"
    candidates = (
        Path("runs") / (name + suffix) for suffix in ("", *(f"-{n}" for n in range(2, 99)))
    )
    return next(path for path in candidates if not path.exists())


# ---------------------------------------------------------------- for other machines
def server_config(flat: Mapping[str, Any], nodes: int, catalog: Path, run_dir: Path) -> RunConfig:
    """The configuration of a deployed run, patient about nodes that start later.

    Args:
        flat: keys of the run that were given.
        nodes: how many are registered.
        catalog: file of the public catalog; prepared data around it say what the items are.
        run_dir: of the run, which may have begun with more or fewer nodes.

    Raises:
        ConfigError: a key is unknown or has an impossible value, or the run there needs more nodes.
    """
    fast_polling.poll_seconds()
    public = Catalog.read(catalog)
    told: dict[str, Any] = {"start-timeout": START_TIMEOUT, **_told_by(catalog.parent)}
    if (saved := read_config(run_dir)) is not None:
        check_catalog(run_dir, public, catalog)
        told |= _needed_before(saved, nodes, given="min-replies" in flat)
        told["llm-noun"] = saved.llm_noun
    flat = {**told, **flat, "catalog": str(catalog.resolve())}
    config = for_nodes(flat, nodes)
    _check_parts(config)
    return config


def _needed_before(saved: RunConfig, nodes: int, given: bool) -> dict[str, Any]:
    """How many nodes a run waits for and how many replies it needs: as it was begun, or all nodes
    if fewer are left.

    Args:
        saved: what it was begun with.
        nodes: how many are registered.
        given: whether ``min-replies`` is chosen by the operator.

    Raises:
        ConfigError: it cannot do with so few.
    """
    if nodes < saved.min_replies and not given:
        mend = "add one with 'lumos deploy add-node', or begin another run with --run-dir"
        if saved.dp == "distributed":
            raise ConfigError(
                f"{nodes} nodes are registered, but the run there has min-replies = "
                f"{saved.min_replies}, and with dp = distributed that may not change: nodes "
                f"compute their noise from it; {mend}"
            )
        if saved.secure_aggregation and nodes < MIN_NODES:
            raise ConfigError(
                f"{nodes} nodes are registered, but secure-aggregation = true needs "
                f"{MIN_NODES}: in a sum of two, each node knows the other's part; {mend}"
            )
    return {
        "min-nodes": min(saved.min_nodes, nodes),
        "min-replies": min(saved.min_replies, nodes),
    }


# ---------------------------------------------------------------- both
def _told_by(folder: Path | None) -> dict[str, Any]:
    """Keys of a run that follow from prepared data, unless they are given."""
    noun = prepared_noun(folder) if folder else None
    return {"llm-noun": noun} if noun else {}


def for_nodes(flat: Mapping[str, Any], count: int) -> RunConfig:
    """The configuration for a known number of nodes: unless told otherwise, wait for all of them.

    Raises:
        ConfigError: more nodes or replies are required than there are nodes.
    """
    known = {"min-nodes": count, "min-replies": min(RunConfig().min_replies, count)}
    config = RunConfig.from_flat({**known, **flat})
    if config.min_nodes > count:
        raise ConfigError(f"min-nodes = {config.min_nodes}, but there are only {count} nodes")
    return config


def _check_parts(config: RunConfig) -> None:
    """Load what a run takes from other packages: what is missing is told before anything starts.

    Raises:
        ConfigError: a plug-in or the library of ``tracking`` is not installed.
    """
    load_plugins(config)
    check_tracker(config)
