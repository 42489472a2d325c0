"""What makes two configurations the same run: all keys but those that may change in resuming."""

from collections.abc import Mapping

from lumos_core.config.flat import Scalar, kebab
from lumos_core.config.older_runs import ADDED_LATER
from lumos_core.config.run_config import RunConfig

FREE_KEYS = frozenset(
    kebab(name)
    for name, field in RunConfig.model_fields.items()
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("free")
)
"""Keys that may change when a run is resumed: how long it runs, how many nodes it waits for, where
its files are, how it is watched. ``min-replies`` may change in most runs, see :func:`free_keys`."""


def free_keys(flat: Mapping[str, Scalar]) -> frozenset[str]:
    """Keys of a flat configuration that may change when its run is resumed.

    With ``dp = distributed`` the scale of every node's noise is computed from ``min-replies``. If
    it changed, a repeated round could send the same noise with two different scales, and from both
    replies the noise could be computed and removed. With other values of ``dp`` the key only says
    how many replies a round needs, and the number of nodes may have changed.
    """
    return FREE_KEYS if flat["dp"] == "distributed" else FREE_KEYS | {"min-replies"}


def fixed(flat: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The part of a configuration that identifies a run: all keys except :func:`free_keys`.

    Keys of :data:`ADDED_LATER` count only if their values differ from the ones given there, so that
    a run that began before they existed is still the same run.
    """
    free = free_keys(flat)
    return {
        key: value
        for key, value in flat.items()
        if key not in free and (key not in ADDED_LATER or value != ADDED_LATER[key])
    }


def first_difference(saved: Mapping[str, Scalar], wanted: Mapping[str, Scalar]) -> str | None:
    """The first key that makes ``wanted`` another run than ``saved``; both have all keys."""
    free = free_keys(saved)
    changed = (key for key, value in saved.items() if key not in free and wanted[key] != value)
    return next(changed, None)
