"""What `lumos attack` runs: scenarios, defences, suites."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from lumos_core.attacks.malicious import ATTACKS
from lumos_core.config import RunConfig, Scalar
from lumos_core.data.partition import Partition
from lumos_core.errors import ConfigError

NONE = "none"
HONEST_NODES = 19
"""With one malicious node more, 5 % of the nodes are malicious."""
MANY_HONEST_NODES = 99
"""For 1 %."""


@dataclass(frozen=True)
class Scenario:
    """One column of the table.

    Attributes:
        attack: a key of ``ATTACKS``, or "none".
        rho: share of malicious nodes among all (the nearest whole number of nodes).
        xi: share of the honest interactions that the attacker knows.
        noise: share of every *honest* user's training interactions replaced by random items.
        nodes: honest nodes.
        partition: how the honest users are dealt out to them (`lumos_core/data/partition.py`).
    """

    attack: str = NONE
    rho: float = 0.0
    xi: float = 0.0
    noise: float = 0.0
    nodes: int = HONEST_NODES
    partition: Partition = "uniform"

    def __post_init__(self) -> None:
        if self.attack != NONE and self.attack not in ATTACKS:
            known = ", ".join(ATTACKS)
            raise ConfigError(f"unknown attack '{self.attack}'; known are: {known}")

    @property
    def malicious(self) -> int:
        """Malicious nodes that join the honest ones; at least one, if there is an attack."""
        if self.attack == NONE:
            return 0
        return max(round(self.rho * self.nodes / (1 - self.rho)), 1)

    @property
    def honest(self) -> str:
        """Names the honest federation, which scenarios have in common; part of a file's name."""
        return f"n{self.nodes}" + ("" if self.partition == "uniform" else f"-{self.partition}")

    @property
    def name(self) -> str:
        """Also part of a file's name."""
        parts = [f"noise{self.noise:g}" if self.noise else self.attack]
        if self.attack != NONE:
            parts += [f"rho{self.rho:g}", f"xi{self.xi:g}"]
        if self.honest != Scenario().honest:
            parts.append(self.honest)
        return "-".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "malicious": self.malicious}


_OFF: dict[str, Scalar] = {
    "aggregation": "mean", "clip": "none", "max-weight-ratio": 10.0,
    "clip-norm-factor": 1.5, "clip-row-factor": 2.0,
}  # fmt: skip
_TIGHT: dict[str, Scalar] = {
    **_OFF, "clip": "norm+rows", "clip-norm-factor": 1.0, "clip-row-factor": 1.25,
}  # fmt: skip
DEFENCES: dict[str, dict[str, Scalar]] = {
    NONE: _OFF,
    "weights": {**_OFF, "max-weight-ratio": 2.0},
    "norm": {**_OFF, "clip": "norm"},
    "rows": {**_OFF, "clip": "rows"},
    "norm+rows": {**_OFF, "clip": "norm+rows"},
    "loose-bounds": {**_OFF, "clip": "norm+rows", "max-weight-ratio": 2.0},
    "tight-clips": {**_TIGHT, "max-weight-ratio": 2.0},
    "tight-bounds": {**_TIGHT, "max-weight-ratio": 1.0},  # what the defaults are
    "median": {**_OFF, "aggregation": "median"},
    "trimmed-mean": {**_OFF, "aggregation": "trimmed-mean"},
    "multi-krum": {**_OFF, "aggregation": "multi-krum"},
    "sparse-median": {**_OFF, "aggregation": "sparse-median", "clip": "rows"},
    "sparse-trimmed-mean": {**_OFF, "aggregation": "sparse-trimmed-mean", "clip": "rows"},
    "bounds-sparse-trimmed": {
        **_OFF, "aggregation": "sparse-trimmed-mean", "clip": "norm+rows"
    },
    "default": {},  # whatever a run does that is not told otherwise
}  # fmt: skip
"""Names after the colon of ``--methods lumos:NAME``: what they set in the configuration."""


def method_config(name: str, base: RunConfig) -> RunConfig:
    """The configuration of "method" (undefended) or "method:defence" on top of a common one.

    Raises:
        ConfigError: there is no such method or defence.
    """
    method, _, defence = name.partition(":")
    if (defence or NONE) not in DEFENCES:
        known = ", ".join(DEFENCES)
        raise ConfigError(f"--methods {name!r}: unknown defence '{defence}'; known are: {known}")
    start: dict[str, Scalar] = {} if method == "lumos" else {"semantic-start": "none"}
    settings = {**base.to_flat(), "method": method, **start, **DEFENCES[defence or NONE]}
    return RunConfig.from_flat(settings)


_PAPER = [
    Scenario(),
    Scenario("align-users", 0.05, 0.9),
    Scenario("fake-popular", 0.05, 0.9),
    *(Scenario(a, 0.05, xi) for xi in (0.1, 0.5) for a in ("align-users", "fake-popular")),
    *(Scenario(noise=n) for n in (0.1, 0.3)),
]
_GRID = [
    Scenario(),
    *(Scenario(a, rho, 0.9) for rho in (0.05, 0.1, 0.2) for a in ATTACKS),
    *(Scenario(a, 0.05, 0.0) for a in ("align-items", "align-users")),
    Scenario(nodes=MANY_HONEST_NODES),
    *(Scenario(a, 0.01, 0.9, nodes=MANY_HONEST_NODES) for a in ATTACKS),
]
_DEFENCES = [
    Scenario(),
    *(
        Scenario(attack, rho, 0.9)
        for rho in (0.05, 0.2)
        for attack in ("sign-flip", "boosted", "align-users", "align-all", "fake-popular")
    ),
]
SUITES: dict[str, list[Scenario]] = {
    "smoke": [Scenario(), Scenario("nan", 0.05, 0.9), Scenario("align-users", 0.05, 0.9)],
    "defences": _DEFENCES,
    "paper": _PAPER,
    "grid": _GRID,
    "uneven": [replace(s, partition="skewed") for s in _DEFENCES],
}
