"""Runs variants × seeds on one prepared data folder, everything else equal.

Every finished run is a JSON file of its own, named by variant and seed and holding the complete
configuration; a run whose file is there with the same configuration is not repeated, so an
interrupted comparison goes on where it was.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lumos_core import variants
from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data import Catalog, Sequences, load_prepared, node_folders
from lumos_core.data.prepared import read_dataset_json
from lumos_core.errors import ConfigError
from lumos_core.files import write_json

Result = dict[str, Any]
OnResult = Callable[[Result, bool], None]
"""Called with each result and whether it was found rather than run."""

PACKAGES = ("lumos", "torch", "transformers", "flwr", "numpy")
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


def run_jobs(jobs: Sequence[Job], processes: int, on_result: OnResult) -> list[Result]:
    """Run what has not been run, ``processes`` at a time, one thread each.

    Ctrl-C loses the runs in progress only.
    """
    results = []
    missing = []
    for job in jobs:
        found = _finished(job)
        if found is None:
            missing.append(job)
        else:
            results.append(found)
            on_result(found, True)
    if missing:
        context = get_context("spawn")  # fork and torch's thread pools do not go together
        with ProcessPoolExecutor(processes, context, initializer=start_worker) as pool:
            futures = [pool.submit(run_job, job) for job in missing]
            try:
                for future in as_completed(futures):
                    results.append(future.result())
                    on_result(results[-1], False)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return results


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
        "catalog": catalog.fingerprint,
        "config": comparable(job.config),
        **_run(job, catalog, nodes),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "versions": versions(),
    }
    write_json(job.path, result)
    return result


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}}


def _run(job: Job, catalog: Catalog, nodes: Sequence[Sequences]) -> Result:
    if job.variant == variants.POPULARITY:
        from lumos_core.baselines import popularity

        return {"test": popularity(Sequences.concat(nodes), len(catalog)), "curve": []}
    if job.variant in variants.UNFEDERATED:
        return _without_rounds(job, catalog, nodes)
    return _federated(job, catalog, nodes)


def _federated(job: Job, catalog: Catalog, sequences: Sequence[Sequences]) -> Result:
    from lumos_core.federation import run_federation
    from lumos_core.in_process import InProcessTransport
    from lumos_core.initialisation import initial_params
    from lumos_core.node import Node, ViewSource, no_views
    from lumos_core.views.source import view_source

    config = job.config.replace(min_nodes=len(sequences), min_replies=1)

    def views(folder: Path) -> ViewSource:
        if config.method != "lumos":
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
    from lumos_core.baselines import train_centralised
    from lumos_core.initialisation import initial_params

    initial = initial_params(job.config, catalog)
    pooled = list(sequences) if job.variant == variants.LOCAL else [Sequences.concat(sequences)]
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
    }


def comparable(config: RunConfig) -> dict[str, Any]:
    """The configuration without paths."""
    return {k: v for k, v in config.to_flat().items() if k not in ("catalog", "run-dir")}


def _finished(job: Job) -> Result | None:
    try:
        found: Result = json.loads(job.path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    dataset = read_dataset_json(job.data)
    same_data = (found.get("catalog"), found.get("nodes"), found.get("users")) == (
        dataset["catalog-fingerprint"],
        dataset["nodes"],
        dataset["users"],
    )
    return found if same_data and found.get("config") == comparable(job.config) else None


def start_worker() -> None:
    """One thread for torch; and an end with the parent, which may be killed outright."""
    import torch

    torch.set_num_threads(1)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
