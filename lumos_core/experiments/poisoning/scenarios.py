"""The scenarios of `lumos attack`, and suites of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lumos_core.data.partition import Partition
from lumos_core.errors import ConfigError
from lumos_core.experiments.poisoning.malicious_node import ATTACKS

NONE = "none"
HONEST_NODES = 19
"""With one malicious node added, 5 % of the nodes are malicious."""
MANY_HONEST_NODES = 99
"""With one malicious node added, 1 % of the nodes are malicious."""


@dataclass(frozen=True)
class Scenario:
    """One federation of the bench: with an attack, with noise in all histories, or with neither.

    Attributes:
        attack: a key of ``ATTACKS``, or "none".
        rho: share of malicious nodes among all (the nearest whole number of nodes).
        xi: share of the honest interactions that the attacker knows.
        noise: share of every *honest* user's training interactions replaced by random items.
        nodes: honest nodes.
        partition: how the honest users are distributed over them (`lumos_core/data/partition.py`).
        clients: "users": each honest user is a client, and each attacker claims to be one; see
            :func:`of_users`.
    """

    attack: str = NONE
    rho: float = 0.0
    xi: float = 0.0
    noise: float = 0.0
    nodes: int = HONEST_NODES
    partition: Partition = "uniform"
    clients: Literal["nodes", "users"] = "nodes"

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
        """Name of the honest federation, which scenarios share; part of a file's name."""
        if self.clients == "users":
            return f"users{self.nodes}"
        return f"n{self.nodes}" + ("" if self.partition == "uniform" else f"-{self.partition}")

    @property
    def name(self) -> str:
        """Name of the scenario; part of a file's name."""
        parts = [f"noise{self.noise:g}" if self.noise else self.attack]
        if self.attack != NONE:
            parts += [f"rho{self.rho:g}", f"xi{self.xi:g}"]
        if self.honest != Scenario().honest:
            parts.append(self.honest)
        return "-".join(parts)

    def to_dict(self) -> dict[str, Any]:
        found = {**asdict(self), "malicious": self.malicious}
        if self.clients == "nodes":  # as in results from before there was a choice
            del found["clients"]
        return found


def of_users(scenarios: Sequence[Scenario], users: int) -> list[Scenario]:
    """The scenarios in a federation whose clients have one user each.

    Args:
        scenarios: their number of nodes does not count: one that occurs twice is there once.
        users: of the data; each is an honest client.

    >>> [s.name for s in of_users([Scenario(), Scenario(nodes=99), Scenario("nan", 0.05)], 708)]
    ['none-users708', 'nan-rho0.05-xi0-users708']
    """
    return list(
        dict.fromkeys(
            replace(s, nodes=users, partition="uniform", clients="users") for s in scenarios
        )
    )


PUBLISHED = (
    "cluster", "hidden", "spattack-o-d", "spattack-l-d", "spattack-o-s", "spattack-l-s",
)  # fmt: skip
"""Attacks of others' papers on federated recommenders, beside PIECK's."""
_OWN = [attack for attack in ATTACKS if attack not in PUBLISHED]
_PAPER = [
    Scenario(),
    Scenario("align-users", 0.05, 0.9),
    Scenario("fake-popular", 0.05, 0.9),
    *(Scenario(a, 0.05, xi) for xi in (0.1, 0.5) for a in ("align-users", "fake-popular")),
    *(Scenario(noise=n) for n in (0.1, 0.3)),
]
_GRID = [
    Scenario(),
    *(Scenario(a, rho, 0.9) for rho in (0.05, 0.1, 0.2) for a in _OWN),
    *(Scenario(a, 0.05, 0.0) for a in ("align-items", "align-users")),
    Scenario(nodes=MANY_HONEST_NODES),
    *(Scenario(a, 0.01, 0.9, nodes=MANY_HONEST_NODES) for a in _OWN),
]
_DEFENCES = [
    Scenario(),
    *(
        Scenario(attack, rho, 0.9)
        for rho in (0.05, 0.2)
        for attack in (
            "sign-flip",
            "boosted",
            "align-users",
            "raise-bias",
            "align-all",
            "align-encoder",
            "ruin-encoder",
            "fake-popular",
        )
    ),
]
SUITES: dict[str, list[Scenario]] = {
    "smoke": [Scenario(), Scenario("nan", 0.05, 0.9), Scenario("align-users", 0.05, 0.9)],
    "defences": _DEFENCES,
    "paper": _PAPER,
    "grid": _GRID,
    "published": [
        Scenario(),
        *(Scenario(a, 0.2, 0.9) for a in ("align-users", *PUBLISHED, "align-items")),
    ],
    "uneven": [replace(s, partition="skewed") for s in _DEFENCES],
}
