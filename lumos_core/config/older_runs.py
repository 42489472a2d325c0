"""Configurations that were saved before some keys existed."""

from collections.abc import Mapping
from typing import Any

from lumos_core.config.flat import Scalar
from lumos_core.config.methods import METHODS
from lumos_core.config.run_keys import ENCODERS, SASREC

ADDED_LATER: dict[str, Scalar] = {
    "encoder": SASREC,
    "title-weight": 0.0,
    "item-rows": "all",
    "item-bias": "none",
    "nodes": "",
    "close-at": 1.0,
    "over-select": 0.0,
    "mode": "sync",
    "buffer-size": 3,
    "max-staleness": 20,
    "evaluation": "leave-one-out",
    "last-days": 7,
    "evaluate-from": "",
    "test-from": "",
    "catalog-artefact": "",
    "start-model": "",
    "row-mean": "all",
}
"""Keys that runs of version 0.1 do not have, with the values that correspond to those runs."""


def learns_bias_by_itself(method: str, encoder: str) -> bool:
    """What ``item-bias = auto`` means for a method and an encoder."""
    return METHODS[method].plus and encoder in ENCODERS


def with_later_keys(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A saved flat configuration with the keys that did not exist when it was saved."""
    return {**ADDED_LATER, **flat}


def resolved(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A saved flat configuration, complete, and ``item-bias = auto`` as what it means there: equal
    for two runs that differ in how their configurations say the same."""
    whole = with_later_keys(flat)
    if whole["item-bias"] == "auto" and whole.get("method") in METHODS:
        learned = learns_bias_by_itself(whole["method"], whole["encoder"])
        whole["item-bias"] = "learned" if learned else "none"
    return whole
