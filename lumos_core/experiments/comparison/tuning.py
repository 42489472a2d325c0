"""Tuning alike: every family of variants gets the same grid, and chooses from it on validation.

A comparison in which only one method was tuned says little. With ``lumos compare --tune``, each
family's representative is run on the first seed at every point of the grid. The point with the best
validation NDCG@20 is used for all variants and seeds of the family. Yardsticks that count choose
from grids of their own (:mod:`lumos_core.learning.counting`).
"""

from collections.abc import Iterable, Mapping

from lumos_core.config import RunConfig
from lumos_core.experiments.comparison.variants import VARIANTS, Overrides
from lumos_core.experiments.results_file import Result
from lumos_core.learning.metrics import SELECTION_METRIC

GRID: Mapping[str, Overrides] = {
    "base": {},
    "slower": {"learning-rate": 1e-3, "dropout": 0.5},
    "slower-wider": {"learning-rate": 1e-3, "dropout": 0.5, "dim": 128},
}
"""Points of the grid: what each changes in the base configuration. At equal NDCG@20, the first."""

FAMILIES: Mapping[str, str] = {
    "fedavg": "fedavg",
    "fedavg-plus": "fedavg-plus",
    "confedsrs": "confedsrs",
    "centralised": "centralised",
    "centralised-plus": "centralised-plus",
    "lumos": "lumos",
    "local": "local",
    "bag": "bag",
}
"""Family → the variant that is tuned for it. Variants of a family are named as it or after it:
``fedavg``, ``fedavg-start``, …; of two names that fit, the longer one is the family's, so that
``fedavg-plus`` and ``lumos``, which differ in their views alone, are each tuned for themselves."""

TUNING = "tuning"
"""Key of a result that is a point of the grid: the point."""
TUNED = "tuned"
"""Key of a result whose configuration was chosen from the grid: the point."""


def family_of(variant: str) -> str | None:
    """The family that a variant belongs to; None if there is nothing to tune."""
    names = (name for name in FAMILIES if variant == name or variant.startswith(f"{name}-"))
    return max(names, key=len, default=None)


def representatives(names: Iterable[str]) -> dict[str, str]:
    """The families of these variants, and the variant that is tuned for each."""
    families = dict.fromkeys(filter(None, map(family_of, names)))
    return {name: FAMILIES[name] for name in families if FAMILIES[name] in VARIANTS}


def at_point(config: RunConfig, point: str | None) -> RunConfig:
    """The configuration at a point of the grid; unchanged for None.

    Raises:
        KeyError: there is no such point.
    """
    if point is None:
        return config
    return RunConfig.from_flat({**config.to_flat(), **GRID[point]})


def choices(results: Iterable[Result]) -> dict[str, str]:
    """The chosen point of every family of which the whole grid has been run."""
    values: dict[str, dict[str, float]] = {}
    for result in results:
        family, point = family_of(result.get("variant", "")), result.get(TUNING)
        if family is not None and point is not None and point in GRID:
            values.setdefault(family, {})[point] = result["validation"][SELECTION_METRIC]
    return {
        family: max(GRID, key=lambda point: found[point])
        for family, found in values.items()
        if found.keys() == GRID.keys()
    }


def in_table(results: Iterable[Result]) -> list[Result]:
    """Results that are rows of the table: all but those points of the grid that were not chosen.

    The run at the chosen point is at the same time the representative's run with that seed, and
    not repeated. Here it looks as if it had been: its point is under :data:`TUNED`.
    """
    found = list(results)
    chosen = choices(found)
    rows = []
    for result in found:
        point = result.get(TUNING)
        if point is None:
            rows.append(result)
        elif chosen.get(family_of(result["variant"]) or "") == point:
            rows.append({**{k: v for k, v in result.items() if k != TUNING}, TUNED: point})
    return rows
