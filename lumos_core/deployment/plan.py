"""The plan of a run: configuration and data, checked before any process starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumos_core.config import NodeConfig, RunConfig, load_plugins
from lumos_core.data import Catalog, Sequences
from lumos_core.data.layout import CATALOG_FILE
from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import load_prepared, node_folders, prepared_noun
from lumos_core.data.sample import SAMPLE_DOMAIN, bundled_sample
from lumos_core.data.splits import least_history
from lumos_core.errors import ConfigError
from lumos_core.flower import fast_polling
from lumos_core.learning.devices import check_device
from lumos_core.privacy.secure_aggregation.participant import MIN_NODES
from lumos_core.runs.folder import check_catalog, check_same_run, read_config
from lumos_core.runs.observers import check_tracker
from lumos_core.runs.saved_config import CONFIG

if TYPE_CHECKING:  # imports torch
    from lumos_core.federation.warm_start import Start

DEFAULT_NODES = 3
START_TIMEOUT = 86_400.0  # seconds; other people may start their nodes a day later


# ---------------------------------------------------------------- on this computer
@dataclass(frozen=True)
class LocalPlan:
    """A federation on this computer; all of its parts have been checked.

    Attributes:
        node_settings: keys of :class:`~lumos_core.config.NodeConfig` for all nodes.
        data: the prepared folder.
        folders: the nodes' folders in it.
        sequences: the nodes' histories.
        start: the model that a new run starts from, if it is not a new one.
    """

    config: RunConfig
    node_settings: Mapping[str, str]
    run_dir: Path
    data: Path
    folders: list[Path]
    catalog: Catalog
    sequences: list[Sequences]
    start: "Start | None" = None


def plan_local(
    flat: Mapping[str, Any],
    node_settings: Mapping[str, str],
    data: Path | None,
    nodes: int | None,
    run_dir: Path | None,
    resume: bool,
    start: Path | None = None,
) -> LocalPlan:
    """Check configuration and data.

    Args:
        flat: keys of the run that the user gave.
        node_settings: keys of the nodes that the user gave.
        data: a prepared folder; None for the data of the run to resume, or the bundled sample.
        nodes: number of nodes, if the user gave it.
        run_dir: the run's folder; None for a new one.
        resume: resume the run in ``run_dir``.
        start: place of the model to start from, if the user gave it.

    Raises:
        ConfigError, DataError: something is wrong with configuration or data.
        ModelError: there is no usable model to start from.
    """
    fast_polling.poll_seconds()
    saved = None
    if resume:
        saved = _saved_config(run_dir)
        flat = {**saved.to_flat(), **flat}
        data = data or Path(saved.catalog).parent
    flat = dated(flat)
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
    config = for_nodes({**_keys_of(data), **flat}, count)
    run_dir = run_dir or _new_run_dir(config)
    if data is None:
        # beside the run's folder, not in it: the next run finds the views that this one stores
        data = run_dir.parent / f"bundled-{count}-nodes-seed-{config.seed}"
        prepare(bundled_sample(), data, nodes=count, seed=config.seed, domain=SAMPLE_DOMAIN)
    config = config.replace(catalog=str(data / CATALOG_FILE))
    if resume:
        check_same_run(run_dir, config)  # before the baselines are started
    catalog, sequences = load_prepared(data, least_history(config.evaluation))
    config, begun = _started(config, catalog, run_dir, start, saved)
    if resume:
        check_catalog(run_dir, catalog, Path(config.catalog))
    folders = node_folders(data)
    return LocalPlan(config, node_settings, run_dir, data, folders, catalog, sequences, begun)


def _saved_config(run_dir: Path | None) -> RunConfig:
    """The configuration of the run to resume.

    Raises:
        ConfigError: there is no run, or its file is damaged.
    """
    if run_dir is None:
        raise ConfigError("--resume needs --run-dir, the folder of the run to resume")
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
    """The configuration of a deployed run; by default it waits a day for nodes to start.

    Args:
        flat: keys of the run that the user gave.
        nodes: number of registered nodes.
        catalog: file of the public catalog; if it lies in a prepared folder, ``llm-noun`` follows
            from the domain of that folder.
        run_dir: the run's folder; the run may have begun with more or fewer nodes.

    Raises:
        ConfigError: a key is unknown or has an impossible value, or the run there needs more nodes.
    """
    fast_polling.poll_seconds()
    if nodes == 0:
        raise ConfigError(
            "no node is registered yet, expected at least one: add it with 'lumos deploy add-node "
            "SERVER NAME --public-key FILE'; more can be added while the server runs"
        )
    public = Catalog.read(catalog)
    known: dict[str, Any] = {"start-timeout": START_TIMEOUT, **_keys_of(catalog.parent)}
    if (saved := read_config(run_dir)) is not None:
        check_catalog(run_dir, public, catalog)
        known |= _needed_before(saved, nodes, given="min-replies" in flat)
        known["llm-noun"] = saved.llm_noun
        known["start-model"] = saved.start_model
        if flat.get("evaluation") == "last-days":  # else the keys are of another run
            known["evaluate-from"] = saved.evaluate_from
    flat = dated({**known, **flat, "catalog": str(catalog.resolve())})
    config = for_nodes(flat, nodes)
    _check_parts(config)
    return config


def dated(flat: Mapping[str, Any], today: date | None = None) -> dict[str, Any]:
    """The keys of a run, with the day from which on ``evaluation = last-days`` holds out.

    Nodes cannot find that day themselves: none knows the newest time in the data of the others, and
    each would hold out other days. So the server says it, once, when the run begins.

    Args:
        flat: keys of the run; of a resumed run with the day that it began with.
        today: by the server's clock, UTC.
    """
    keys = dict(flat)
    if keys.get("evaluation") == "last-days" and not keys.get("evaluate-from"):
        days = RunConfig.from_flat({"last-days": keys.get("last-days", 7)}).last_days
        today = today or datetime.now(UTC).date()
        keys["evaluate-from"] = (today - timedelta(days=days)).isoformat()
    return keys


def server_start(
    config: RunConfig, run_dir: Path, place: Path | None
) -> "tuple[RunConfig, Start | None]":
    """The configuration of a deployed run with its start, and the model to start from if the run is
    a new one that does not start with a new model.

    Args:
        config: of :func:`server_config`.
        run_dir: the run's folder.
        place: the model to start from, if the operator named one.

    Raises:
        ConfigError: the model has another shape, or the run there began with another model.
        ModelError: there is no usable model.
    """
    return _started(
        config, Catalog.read(Path(config.catalog)), run_dir, place, read_config(run_dir)
    )


def _needed_before(saved: RunConfig, nodes: int, given: bool) -> dict[str, Any]:
    """How many nodes a run waits for and how many replies it needs: the numbers that it was begun
    with, or the number of registered nodes if that is smaller.

    Args:
        saved: the configuration that the run was begun with.
        nodes: number of registered nodes.
        given: whether the operator gave ``min-replies``.

    Raises:
        ConfigError: the run needs more nodes than are registered.
    """
    if nodes < saved.min_replies and not given:
        repair = "add one with 'lumos deploy add-node', or begin another run with --run-dir"
        if saved.dp == "distributed":
            raise ConfigError(
                f"{nodes} nodes are registered, but the run there has min-replies = "
                f"{saved.min_replies}, and with dp = distributed that may not change: nodes "
                f"compute their noise from it; {repair}"
            )
        if saved.secure_aggregation and nodes < MIN_NODES:
            raise ConfigError(
                f"{nodes} nodes are registered, but secure-aggregation = true needs "
                f"{MIN_NODES}: in a sum of two, each node knows the other's part; {repair}"
            )
    return {
        "min-nodes": min(saved.min_nodes, nodes),
        "min-replies": min(saved.min_replies, nodes),
    }


# ---------------------------------------------------------------- both
def _started(
    config: RunConfig, catalog: Catalog, run_dir: Path, place: Path | None, saved: RunConfig | None
) -> "tuple[RunConfig, Start | None]":
    """As :func:`~lumos_core.federation.warm_start.with_start`, which imports torch."""
    if place is None and not config.start_model:
        return config, None
    from lumos_core.federation.warm_start import with_start

    return with_start(config, catalog, run_dir, place, saved)


def _keys_of(folder: Path | None) -> dict[str, Any]:
    """Keys of a run that follow from prepared data, where the user does not give them."""
    noun = prepared_noun(folder) if folder else None
    return {"llm-noun": noun} if noun else {}


def for_nodes(flat: Mapping[str, Any], count: int) -> RunConfig:
    """The configuration for a known number of nodes; by default the run waits for all of them, or,
    if it chooses among them (`nodes`), for as many as any run does.

    Raises:
        ConfigError: more nodes or replies are required than there are nodes.
    """
    usual = RunConfig()
    known = {
        "min-nodes": min(usual.min_nodes, count) if flat.get("nodes") else count,
        "min-replies": min(usual.min_replies, count),
    }
    config = RunConfig.from_flat({**known, **flat})
    if config.min_nodes > count:
        raise ConfigError(f"min-nodes = {config.min_nodes}, but there are only {count} nodes")
    return config


def _check_parts(config: RunConfig) -> None:
    """Load the plug-ins and libraries that a run needs, so that a missing one is found before
    anything starts.

    Raises:
        ConfigError: a plug-in or the library of ``tracking`` is not installed.
    """
    load_plugins(config)
    check_tracker(config)
