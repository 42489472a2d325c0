"""Runs of variants × seeds on one prepared data folder, everything else being equal.

All runs of a folder must have the same base configuration and data, because they are rows of one
table.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lumos_core.config import RunConfig, resolved
from lumos_core.errors import ConfigError
from lumos_core.experiments.comparison import tuning, variants
from lumos_core.experiments.comparison.variant_runs import MERGED, Partition, VariantRun
from lumos_core.experiments.jobs import data_facts
from lumos_core.experiments.results_file import Result
from lumos_core.federation.one_user_clients import check_one_user_clients

__all__ = ["MERGED", "VariantRun", "check_kept", "is_variant", "plan_comparison", "plan_tuning"]


def plan_comparison(
    data: Path,
    names: Sequence[str],
    seeds: Iterable[int],
    base: RunConfig,
    partition: Partition = "stored",
    choices: Mapping[str, str] | None = None,
) -> list[VariantRun]:
    """All runs of a comparison, seed by seed.

    Args:
        data: prepared folder.
        names: variants.
        seeds: each variant is run with each.
        base: the configuration without the changes of variant and seed.
        partition: which users a node has.
        choices: the chosen point of the tuning grid for every family; see :func:`plan_tuning`.

    Raises:
        ConfigError: a variant is unknown.
    """
    check_names(names)
    chosen = choices or {}
    return [
        _run_of(data, name, base.replace(seed=seed), partition, tuned=chosen.get(family or ""))
        for seed in seeds
        for name, family in ((name, tuning.family_of(name)) for name in names)
    ]


def plan_tuning(
    data: Path, names: Sequence[str], seed: int, base: RunConfig, partition: Partition = "stored"
) -> list[VariantRun]:
    """The runs of the tuning grid: every point for every family of these variants, with one seed.

    Raises:
        ConfigError: a variant is unknown.
    """
    check_names(names)
    return [
        _run_of(data, variant, base.replace(seed=seed), partition, trying=point)
        for variant in tuning.representatives(names).values()
        for point in tuning.GRID
    ]


def check_names(names: Sequence[str]) -> None:
    """Refuse a name that is not of a variant.

    Raises:
        ConfigError: names it, and those that are known.
    """
    for name in names:
        if name not in variants.VARIANTS:
            known = ", ".join(variants.VARIANTS)
            raise ConfigError(f"unknown variant '{name}'; known are: {known}")


def check_one_user(name: str, config: RunConfig) -> None:
    """Check that a variant can be run with one user a client.

    Raises:
        ConfigError: says why it cannot be.
    """
    if name == variants.LOCAL:
        raise ConfigError(
            "variant 'local' with --clients users would train a model for every user, and rank "
            "with each; leave it out"
        )
    if name not in variants.UNFEDERATED:
        try:
            check_one_user_clients(config)
        except ConfigError as error:
            raise ConfigError(f"variant '{name}' with --clients users: {error}") from None


def _run_of(
    data: Path,
    name: str,
    base: RunConfig,
    partition: Partition,
    *,
    tuned: str | None = None,
    trying: str | None = None,
) -> VariantRun:
    config = tuning.at_point(variants.variant_config(name, base), tuned or trying)
    if name == variants.LOCAL and config.evaluation == "last-days":
        raise ConfigError(
            "variant 'local' with evaluation = last-days: a node may have nobody in a window, and "
            "nothing to choose its model by; leave the variant out"
        )
    if partition == "users":
        check_one_user(name, config)
    return VariantRun(data, config, name, partition, tuned, trying)


def check_kept(
    kept: Mapping[str, Result],
    out: Path,
    data: Path,
    base: RunConfig,
    partition: Partition = "stored",
    tuning_seed: int | None = None,
) -> list[Result]:
    """Finished runs of a folder that belong in its table, including those not requested now.

    Args:
        kept: finished runs, by the place where each was found.
        out: the folder.
        data: prepared folder.
        base: the configuration without the changes of variant and seed.
        partition: which users a node has.
        tuning_seed: the seed of the tuning grid; None if nothing is tuned.

    Raises:
        ConfigError: a run has another base configuration or other data, another partition, or was
            tuned in another way, so it cannot be in the same table.
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
        _check_partition(out, where, result, partition)
        _check_tuning(out, where, result, tuning_seed)
        _check_base(out, where, result, base)
    return tuning.in_table(found.values())


def is_variant(result: Result) -> bool:
    """Whether a result is complete and its variant is known."""
    return result.get("variant") in variants.VARIANTS and "test" in result


def _check_partition(out: Path, where: str, found: Result, partition: Partition) -> None:
    theirs = found.get("partition", "stored")
    if theirs != partition:
        raise ConfigError(
            f"--out {out}: {where} was run with {_option(theirs)}, this comparison has "
            f"{_option(partition)}; both cannot be in one table. Choose another --out, or give "
            f"{_option(theirs)}"
        )


def _option(partition: str) -> str:
    return "--clients users" if partition == "users" else f"--partition {partition}"


def _check_tuning(out: Path, where: str, found: Result, seed: int | None) -> None:
    """A family is tuned for all rows of a table or for none, and on one seed."""
    was_tuned = tuning.TUNED in found or tuning.TUNING in found
    if tuning.family_of(found["variant"]) is not None and was_tuned != (seed is not None):
        theirs, ours = ("with", "without") if was_tuned else ("without", "with")
        raise ConfigError(
            f"--out {out}: {where} was run {theirs} --tune, this comparison is {ours} it; both "
            f"cannot be in one table. Choose another --out, or run it {theirs} --tune"
        )
    if tuning.TUNING in found and found["seed"] != seed:
        raise ConfigError(
            f"--out {out}: {where} was tuned on seed {found['seed']}, this comparison begins with "
            f"seed {seed}; name {found['seed']} first in --seeds, or choose another --out"
        )


def _check_base(out: Path, where: str, found: Result, base: RunConfig) -> None:
    config = base.replace(seed=found["config"].get("seed", 0))
    point = found.get(tuning.TUNED, found.get(tuning.TUNING))
    if point is not None and point not in tuning.GRID:
        raise ConfigError(
            f"--out {out}: {where} was tuned to {point!r}, expected a point of the grid: "
            f"{', '.join(tuning.GRID)}; choose another --out"
        )
    whole = tuning.at_point(variants.variant_config(found["variant"], config), point)
    wanted, kept = resolved(whole.without_paths()), resolved(found["config"])
    for key in [*wanted, *(k for k in kept if k not in wanted)]:
        if kept.get(key) != wanted.get(key):
            raise ConfigError(
                f"--out {out}: {where} was run with {_setting(key, kept)}, this comparison "
                f"has {_setting(key, wanted)}; both cannot be in one table. Choose another "
                f"--out, or give the same -c {key}=…"
            )


def _setting(key: str, config: Result) -> str:
    return f"{key} = {config[key]!r}" if key in config else f"no key '{key}' (another LUMOS)"
