"""The (ε, δ) that a run has spent, node by node, and whether another round may follow."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lumos_core.config import RunConfig
from lumos_core.runs.history import Event

ORDERS = (
    *(1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4),
    *(1 + x / 4 for x in range(1, 37)),
    *range(11, 64),
    *(int(64 * 1.25**k) for k in range(20)),
)
"""Rényi orders over which the bound is minimised; the high orders matter for small ε."""


def epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """ε of ``steps`` sampled Gaussian mechanisms at ``delta``; infinite without noise."""
    return composed(noise_multiplier, {sample_rate: steps}, delta)


def composed(noise_multiplier: float, steps: Mapping[float, int], delta: float) -> float:
    """ε of a sequence of sampled Gaussian mechanisms; infinite without noise.

    Args:
        noise_multiplier: the same for all of them.
        steps: sampling rate → number of mechanisms with it.
        delta: δ.
    """
    return composed_runs([(noise_multiplier, steps)], delta)


def composed_runs(runs: Iterable[tuple[float, Mapping[float, int]]], delta: float) -> float:
    """ε of several runs together, which may have different noise; infinite if one has none.

    Args:
        runs: for each run its noise multiplier and, by sampling rate, the number of mechanisms.
        delta: δ of all of them together.
    """
    taken = [
        (noise, rate, n) for noise, steps in runs for rate, n in sorted(steps.items()) if n > 0
    ]
    if not taken:
        return 0.0
    if not all(noise for noise, _, _ in taken):
        return math.inf
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = taken
    return float(accountant.get_privacy_spent(delta=delta, alphas=list(ORDERS))[0])


def private_steps(users: int, config: RunConfig) -> tuple[float, int]:
    """Sampling rate and number of DP-SGD steps of one training of a node."""
    users = max(users, 1)
    rate = min(config.batch_size / users, 1.0)
    return rate, config.local_epochs * math.ceil(users / config.batch_size)


@dataclass
class Budget:
    """What a run has spent, node by node. The events of its history are enough to compute it again.

    Attributes:
        users: by node, how many users it has now, as far as is known.
        trained: by node, how many users it had at each training that counts. Unless noise is
            central, a failed attempt at a round counts, too: what was sent in it has been released.
    """

    config: RunConfig
    users: dict[str, int] = field(default_factory=dict)
    trained: dict[str, list[int]] = field(default_factory=dict)
    _known: dict[tuple[tuple[float, int], ...], float] = field(default_factory=dict)

    @classmethod
    def of(cls, config: RunConfig, events: Iterable[Event]) -> "Budget":
        """The budget after these events."""
        budget = cls(config)
        asked: Mapping[str, int] = {}  # nodes of an attempt that has no outcome yet
        for event in events:
            if event["event"] == "asked":
                budget._count(asked)  # the earlier attempt has no outcome: the server died in it
                asked = event["asked"]
            elif "privacy" in event:
                budget._count(event["privacy"]["nodes"])
                asked = {}
        budget._count(asked)
        return budget

    def ask(self, nodes: Iterable[str]) -> Event:
        """Facts for the history before these nodes are asked: if the server dies before their
        replies arrive, the attempt must still be counted. Empty with central noise, where only a
        released model costs something, and without privacy."""
        if self.config.dp in ("none", "central"):
            return {}
        return {"asked": {name: self.users.get(name, 1) for name in sorted(nodes)}}

    def spend(self, accepted: Iterable[str], others: Iterable[str]) -> Event:
        """Count an attempt at a round, and return its cost for the history; empty without privacy.

        Args:
            accepted: nodes whose replies are part of the new model; none if the round failed.
            others: nodes that were asked, but whose replies are not part of it.
        """
        if self.config.dp == "none":
            return {}
        # With central noise a dropped reply is never released. Otherwise sending it releases it.
        names = list(accepted) if self.config.dp == "central" else [*accepted, *others]
        nodes = {name: self.users.get(name, 1) for name in sorted(names)}
        if not nodes:
            return {}
        self._count(nodes)
        return {
            "epsilon": self.spent(),
            "privacy": {"dp": self.config.dp, "delta": self.config.dp_delta, "nodes": nodes},
        }

    def epsilon(self, more: bool = False) -> float:
        """The largest ε of any node; with ``user``, of the users of any node.

        Args:
            more: count one more round, in which all of them take part.
        """
        return max((self._of(name, more) for name in self.trained), default=0.0)

    def spent(self) -> float | None:
        """ε so far; None if it is not finite: without privacy or without noise."""
        found = self.epsilon()
        return found if self.config.dp != "none" and math.isfinite(found) else None

    def allows(self, node: str) -> bool:
        """Whether a node may take part in another round."""
        limit = self.config.max_epsilon
        return self.config.dp == "none" or not limit or self._of(node, more=True) <= limit

    def exhausted(self, nodes: Iterable[str]) -> str:
        """Why there may be no further round with these nodes; empty if there may be.

        A node that has used up its budget is left out of further rounds. With ``user``, a round
        costs a node with few users more ε: a node that claims to have few thus excludes itself, but
        does not end the run of the others.
        """
        names = list(nodes) or [""]  # no node known yet: assume one with a single user
        left = [name for name in names if self.allows(name)]
        if left and len(left) >= min(self.config.min_replies, len(names)):
            return ""
        following = {name: self._of(name, more=True) for name in names if name not in left}
        cheapest = min(following, key=lambda name: (following[name], name))
        return (
            f"privacy budget: epsilon is {self.epsilon():.3g}, the next round would make it "
            f"{following[cheapest]:.3g} or more for {len(following)} of {len(names)} nodes, "
            f"max-epsilon = {self.config.max_epsilon:g} (delta = {self.config.dp_delta:g})"
        )

    def steps_of(self, node: str, more: int = 0) -> Counter[float]:
        """By sampling rate, the number of mechanisms that a node's trainings were.

        Args:
            node: its name.
            more: count so many trainings more.
        """
        counts = [*self.trained.get(node, ()), *([self.users.get(node, 1)] * more)]
        steps: Counter[float] = Counter()
        for users in counts:
            rate, number = 1.0, 1
            if self.config.dp == "user":
                rate, number = private_steps(users, self.config)
            steps[rate] += number
        return steps

    def _of(self, node: str, more: bool) -> float:
        steps = self.steps_of(node, int(more))
        key = tuple(sorted(steps.items()))
        if key not in self._known:
            z, delta = self.config.dp_noise_multiplier, self.config.dp_delta
            self._known[key] = composed(z, steps, delta)
        return self._known[key]

    def _count(self, nodes: Mapping[str, int]) -> None:
        for name, users in nodes.items():
            self.trained.setdefault(name, []).append(users)
            self.users[name] = users
