"""Runs of variants × seeds on one prepared data folder, everything else being equal.

All runs of a folder must have the same base configuration and data, because they are rows of one
table.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.data.pooled import pool
from lumos_core.data.prepared_folder import load_prepared, node_folders
from lumos_core.errors import ConfigError
from lumos_core.experiments.comparison import variants
from lumos_core.experiments.jobs import Job, data_facts
from lumos_core.experiments.results_file import Result

MERGED = "merged_users"
"""Key of results on pooled data: users who have interactions on more than one node."""
CENTRALISED_MAX_EPOCHS = 150
CENTRALISED_PATIENCE = 10


@dataclass(frozen=True)
class VariantRun(Job):
    """One run of a variant."""

    variant: str

    def names(self) -> Result:
        return {"variant": self.variant}

    def work(self) -> Result:
        catalog, nodes = load_prepared(self.data)
        users = sum(map(len, nodes))
        return {"nodes": len(nodes), "users": users, **_run(self, catalog, nodes)}


def plan_comparison(
    data: Path, names: Sequence[str], seeds: Iterable[int], base: RunConfig
) -> list[VariantRun]:
    """All runs of a comparison, seed by seed.

    Raises:
        ConfigError: a variant is unknown.
    """
    for name in names:
        if name not in variants.VARIANTS:
            known = ", ".join(variants.VARIANTS)
            raise ConfigError(f"unknown variant '{name}'; known are: {known}")
    return [
        VariantRun(data, variants.variant_config(name, base.replace(seed=seed)), name)
        for seed in seeds
        for name in names
    ]


def check_kept(kept: Mapping[str, Result], out: Path, data: Path, base: RunConfig) -> list[Result]:
    """Finished runs of a folder that belong in its table, including those not requested now.

    Args:
        kept: finished runs, by the place where each was found.
        out: the folder.
        data: prepared folder.
        base: the configuration without the changes of variant and seed.

    Raises:
        ConfigError: a run has another base configuration or other data, so it cannot be in the
            same table.
        DataError: ``data`` is not a prepared folder.
    """
    found = {where: result for where, result in kept.items() if is_variant(result)}
    facts = data_facts(data) if found else {}
    for where, result in found.items():
        for key, value in facts.items():
            if result.get(key) != value:
                raise ConfigError(
                    f"--out {out}: {where} is of other data than {data} (another {key}); "
                    "choose another --out"
                )
        _check_base(out, where, result, base)
    return list(found.values())


def is_variant(result: Result) -> bool:
    """Whether a result is complete and its variant is known."""
    return result.get("variant") in variants.VARIANTS and "test" in result


def _check_base(out: Path, where: str, found: Result, base: RunConfig) -> None:
    config = base.replace(seed=found["config"].get("seed", 0))
    wanted = variants.variant_config(found["variant"], config).without_paths()
    kept: Result = found["config"]
    for key in [*wanted, *(k for k in kept if k not in wanted)]:
        if kept.get(key) != wanted.get(key):
            raise ConfigError(
                f"--out {out}: {where} was run with {_setting(key, kept)}, this comparison "
                f"has {_setting(key, wanted)}; both cannot be in one table. Choose another "
                f"--out, or give the same -c {key}=…"
            )


def _setting(key: str, config: Result) -> str:
    return f"{key} = {config[key]!r}" if key in config else f"no key '{key}' (another LUMOS)"


def _run(job: VariantRun, catalog: Catalog, nodes: Sequence[Sequences]) -> Result:
    if job.variant == variants.POPULARITY:
        from lumos_core.learning.baselines import popularity

        pooled = pool(job.data, catalog, nodes)
        test = popularity(pooled.users, len(catalog))
        return {"test": test, "curve": [], MERGED: pooled.merged}
    if job.variant in variants.UNFEDERATED:
        return _without_rounds(job, catalog, nodes)
    return _federated(job, catalog, nodes)


def _federated(job: VariantRun, catalog: Catalog, sequences: Sequence[Sequences]) -> Result:
    from lumos_core.federation.simulate import prepared_views, simulate

    config = job.config.replace(min_nodes=len(sequences), min_replies=1)
    names = [folder.name for folder in node_folders(job.data)]
    users = dict(zip(names, sequences, strict=True))
    views_of = prepared_views(config, catalog, job.data)
    result = simulate(config, catalog, users, views_of=views_of)
    curve = [e for e in result.events if e["event"] == "evaluation" and e["split"] == "validation"]
    return {
        "best_round": result.best_round,
        "title_weight": result.title_weight,
        "validation": result.validation,
        "test": result.test,
        "curve": [{k: e[k] for k in ("round", "hr@20", "ndcg@20")} for e in curve],
        "bytes_up": [e["bytes_up"] for e in result.events if e["event"] == "round"],
        "epsilon": result.epsilon,
    }


def _without_rounds(job: VariantRun, catalog: Catalog, sequences: Sequence[Sequences]) -> Result:
    """Train without rounds. Centralised: one model for all users. Local: one model per node, with
    metrics averaged over all users."""
    from lumos_core.learning.baselines import train_centralised
    from lumos_core.learning.title_nearness import TitleNearness
    from lumos_core.learning.title_start import initial_params

    initial = initial_params(job.config, catalog)
    titles = TitleNearness.of(catalog) if any(job.config.title_weights) else None
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
            titles,
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
