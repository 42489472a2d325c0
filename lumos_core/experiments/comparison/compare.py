"""Runs variants × seeds on one prepared data folder, everything else equal.

Every finished run is a JSON file of its own, named by variant and seed and holding the complete
configuration; a run whose file is there with the same configuration is not repeated, so an
interrupted comparison goes on where it was. All files of a folder have the same base configuration
and data: they are rows of one table.
"""

import json
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.data.layout import CATALOG_FILE
from lumos_core.data.pooled import pool
from lumos_core.data.prepared_folder import interactions_digest, load_prepared, node_folders
from lumos_core.errors import ConfigError
from lumos_core.experiments.comparison import variants
from lumos_core.experiments.jobs import OnResult, Result, read_result, run_missing
from lumos_core.safe_files import write_json

PACKAGES = ("lumos", "torch", "transformers", "flwr", "numpy")
MERGED = "merged_users"
"""Key of results on pooled data: users who have interactions on more than one node."""
CENTRALISED_MAX_EPOCHS = 150
CENTRALISED_PATIENCE = 10


@dataclass(frozen=True)
class Job:
    """One run: picklable, so that a process of its own can do it."""

    variant: str
    data: Path
    out: Path
    config: RunConfig  # complete, seed included

    @property
    def path(self) -> Path:
        return self.out / "runs" / f"{self.variant}-seed{self.config.seed}.json"


def plan(
    data: Path, out: Path, names: Sequence[str], seeds: Iterable[int], base: RunConfig
) -> list[Job]:
    """All runs of a comparison, seed by seed.

    Raises:
        ConfigError: a variant is unknown.
    """
    for name in names:
        if name not in variants.VARIANTS:
            known = ", ".join(variants.VARIANTS)
            raise ConfigError(f"unknown variant '{name}'; known are: {known}")
    return [
        Job(name, data, out, variants.variant_config(name, base.replace(seed=seed)))
        for seed in seeds
        for name in names
    ]


def kept_results(out: Path, data: Path, base: RunConfig) -> list[Result]:
    """All finished runs of a folder, also of variants and seeds that are not asked for now.

    Args:
        out: folder of a comparison; may be new.
        data: prepared folder.
        base: the configuration that variants change and seeds complete.

    Raises:
        ConfigError: a run has another base configuration, or is of other data; they must not
            stand in one table.
        DataError: ``data`` is not a prepared folder.
    """
    paths = sorted((out / "runs").glob("*.json"))
    facts = data_facts(data) if paths else {}
    results = []
    for path in paths:
        found = _read(path)
        if found is None:
            continue  # not a whole result: run again if it is asked for
        for key, value in facts.items():
            if found.get(key) != value:
                raise ConfigError(
                    f"--out {out}: {path.name} is of other data than {data} (another {key}); "
                    "choose another --out"
                )
        _check_base(out, path, found, base)
        results.append(found)
    return results


def _read(path: Path) -> Result | None:
    """A result file, None if it is not one of a variant that there is."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        return None
    return found if found.get("variant") in variants.VARIANTS and "test" in found else None


def _check_base(out: Path, path: Path, found: Result, base: RunConfig) -> None:
    config = base.replace(seed=found["config"].get("seed", 0))
    wanted = variants.variant_config(found["variant"], config).without_paths()
    kept: Result = found["config"]
    for key in [*wanted, *(k for k in kept if k not in wanted)]:
        if kept.get(key) != wanted.get(key):
            raise ConfigError(
                f"--out {out}: {path.name} was run with {_setting(key, kept)}, this comparison "
                f"has {_setting(key, wanted)}; both cannot stand in one table. Choose another "
                f"--out, or give the same -c {key}=…"
            )


def _setting(key: str, config: Result) -> str:
    return f"{key} = {config[key]!r}" if key in config else f"no key '{key}' (another LUMOS)"


def run_jobs(jobs: Sequence[Job], processes: int, on_result: OnResult) -> list[Result]:
    """Run what has not been run, ``processes`` at a time, one thread each.

    Ctrl-C loses the runs in progress only.
    """
    results = []
    missing = []
    data = {folder: data_facts(folder) for folder in {job.data for job in jobs}}
    for job in jobs:
        found = _finished(job, data[job.data])
        if found is None:
            missing.append(job)
        else:
            results.append(found)
            on_result(found, True)
    return results + run_missing(run_job, missing, processes, on_result)


def run_job(job: Job) -> Result:
    """Do one run and keep its result."""
    started, cpu = time.perf_counter(), time.process_time()
    catalog, nodes = load_prepared(job.data)
    result: Result = {
        "variant": job.variant,
        "seed": job.config.seed,
        "data": job.data.name,
        "nodes": len(nodes),
        "users": sum(map(len, nodes)),
        **data_facts(job.data),
        "config": job.config.without_paths(),
        **_run(job, catalog, nodes),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "versions": versions(),
    }
    write_json(job.path, result)
    return result


def data_facts(folder: Path) -> Result:
    """What distinguishes the data of a prepared folder from any other.

    Raises:
        DataError: it is not a prepared folder.
    """
    return {
        "catalog": Catalog.read(folder / CATALOG_FILE).fingerprint,
        "interactions": interactions_digest(folder),
    }


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}}


def _run(job: Job, catalog: Catalog, nodes: Sequence[Sequences]) -> Result:
    if job.variant == variants.POPULARITY:
        from lumos_core.learning.baselines import popularity

        pooled = pool(job.data, catalog, nodes)
        test = popularity(pooled.users, len(catalog))
        return {"test": test, "curve": [], MERGED: pooled.merged}
    if job.variant in variants.UNFEDERATED:
        return _without_rounds(job, catalog, nodes)
    return _federated(job, catalog, nodes)


def _federated(job: Job, catalog: Catalog, sequences: Sequence[Sequences]) -> Result:
    from lumos_core.federation.in_process import InProcessTransport
    from lumos_core.federation.node import Node
    from lumos_core.federation.round_loop import run_federation
    from lumos_core.learning.title_start import initial_params
    from lumos_core.views.source import view_source
    from lumos_core.views.view import ViewSource, no_views

    config = job.config.replace(min_nodes=len(sequences), min_replies=1)

    def views(folder: Path) -> ViewSource:
        if not config.has_views:
            return no_views
        return view_source(config, NodeConfig(data=str(folder)), catalog)

    nodes = [
        Node(folder.name, catalog, users, config, views(folder))
        for folder, users in zip(node_folders(job.data), sequences, strict=True)
    ]
    result = run_federation(
        config, InProcessTransport(nodes), catalog.fingerprint, initial_params(config, catalog)
    )
    curve = [e for e in result.events if e["event"] == "evaluation" and e["split"] == "validation"]
    return {
        "best_round": result.best_round,
        "validation": result.validation,
        "test": result.test,
        "curve": [{k: e[k] for k in ("round", "hr@20", "ndcg@20")} for e in curve],
        "bytes_up": [e["bytes_up"] for e in result.events if e["event"] == "round"],
        "epsilon": result.epsilon,
    }


def _without_rounds(job: Job, catalog: Catalog, sequences: Sequence[Sequences]) -> Result:
    """Centralised: one model for all. Local: a model per node, metrics averaged over all users."""
    from lumos_core.learning.baselines import train_centralised
    from lumos_core.learning.title_start import initial_params

    initial = initial_params(job.config, catalog)
    alone = job.variant == variants.LOCAL
    together = None if alone else pool(job.data, catalog, sequences)
    pooled = [together.users] if together else list(sequences)
    curve: list[Result] = []

    def on_epoch(epoch: Result) -> None:
        if len(pooled) == 1:
            curve.append({"round": epoch["epoch"], **{k: epoch[k] for k in ("hr@20", "ndcg@20")}})

    outcomes = [
        train_centralised(
            job.config,
            users,
            initial,
            max_epochs=CENTRALISED_MAX_EPOCHS,
            patience=CENTRALISED_PATIENCE,
            on_epoch=on_epoch,
        )[1]
        for users in pooled
    ]
    total = sum(len(users) for users in pooled)

    def over_users(split: str) -> dict[str, float]:
        return {
            k: sum(o[split][k] * len(u) for o, u in zip(outcomes, pooled, strict=True)) / total
            for k in outcomes[0][split]
        }

    return {
        "best_round": max(o["best_epoch"] for o in outcomes),
        "validation": over_users("validation"),
        "test": over_users("test"),
        "curve": curve,
        MERGED: together.merged if together else 0,
    }


def _finished(job: Job, data: Result) -> Result | None:
    """The result of an earlier run of the same configuration on the same data."""
    return read_result(job.path, {**data, "config": job.config.without_paths()})
