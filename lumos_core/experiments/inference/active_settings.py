"""The settings of `lumos audit --active`: protections of the nodes, and owners' floors."""

from collections.abc import Mapping
from typing import NamedTuple

from lumos_core.config import Scalar


class Protection(NamedTuple):
    """Changes of the run's configuration, and whether the server sees sums only."""

    changes: Mapping[str, Scalar]
    sums: bool = False


_SECURE: Mapping[str, Scalar] = {
    "secure-aggregation": True, "clip": "none", "aggregation": "mean", "min-replies": 8,
    "min-nodes": 8,
}  # fmt: skip
_OF_NODES: Mapping[str, Scalar] = {
    "dp": "distributed", "weighting": "uniform", "aggregation": "mean", "clip": "none",
    "min-replies": 8, "min-nodes": 8,
}  # fmt: skip
_OF_USERS: Mapping[str, Scalar] = {"dp": "user", "item-rows": "all"}

PLAIN, SECURE = "plain", "secure aggregation"
PROTECTIONS: dict[str, Protection] = {
    PLAIN: Protection({}),
    SECURE: Protection(_SECURE, sums=True),
    "node-level noise 0.1": Protection({**_OF_NODES, "dp-noise-multiplier": 0.1}),
    "node-level noise 1": Protection({**_OF_NODES, "dp-noise-multiplier": 1.0}),
    "secure aggregation, node-level noise 0.1": Protection(
        {**_SECURE, **_OF_NODES, "dp-noise-multiplier": 0.1}, sums=True
    ),
    "secure aggregation, node-level noise 1": Protection(
        {**_SECURE, **_OF_NODES, "dp-noise-multiplier": 1.0}, sums=True
    ),
    "user-level noise 0.5": Protection({**_OF_USERS, "dp-noise-multiplier": 0.5}),
    "user-level noise 2": Protection({**_OF_USERS, "dp-noise-multiplier": 2.0}),
}
"""Node-level noise is shared by eight nodes; a single reply has 1 / √8 of it."""

PLAN: dict[str, tuple[str, ...]] = {
    "watch": tuple(PROTECTIONS),
    "flat": tuple(PROTECTIONS),
    "marked": tuple(PROTECTIONS),
    "again, 10 rounds": tuple(name for name in PROTECTIONS if "noise" in name),
    "again, 50 rounds": tuple(
        name for name, p in PROTECTIONS.items() if "noise" in name and not p.sums
    ),
    "sybils": tuple(name for name, p in PROTECTIONS.items() if p.sums),
    "difference": tuple(name for name, p in PROTECTIONS.items() if p.sums),
}
"""Which moves are made against which protections: repeating and one-node cohorts only where they
change what the server sees."""

FLOORS: dict[str, Mapping[str, Scalar]] = {
    "require-secure-aggregation": {"require-secure-aggregation": True},
    "allowed-dp = user": {"allowed-dp": "user"},
    "max-run-epsilon = 8": {"max-run-epsilon": 8.0},
}
"""Floors of an owner, with which it is checked who would have refused a move."""
