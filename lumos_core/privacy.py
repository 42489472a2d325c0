"""Differential privacy: noise, its sources, and the (ε, δ) that it buys.

=============  =============================================================================
central        nodes clip their delta to ``dp-clip`` = C; the server clips again (it trusts
               nobody), takes the plain mean of n and adds N(0, (z·C / n)²) to every value
distributed    nodes clip and add N(0, (z·C)² / m) each, m = ``min-replies``: any sum the
               server forms has at least the noise of the central one
user           nodes train with DP-SGD, see :mod:`lumos_core.private_training`
=============  =============================================================================

ε comes from Opacus' RDP accountant (an upper bound), for adding or removing a whole node, or with
``user`` a whole user. Nodes are sampled by a public seed, so sampling hides nobody and amplifies
nothing; instead, every node's own participations are composed, and the worst node counts. Sampling
of users inside a node is secret and Poisson, so there amplification is real.

**Where noise comes from.** A generator whose seed others know hides nothing, so the run's seed is
no source. The server draws from the operating system. A node draws from a key that never leaves it
and the very values that the noise protects (as RFC 6979 does for signatures): a round that is
repeated, after a crash or a failed round, then gives the same reply and reveals nothing new, while
any change of model, data or round gives independent noise. ``dp-noise-seed`` ≥ 0 replaces both by
a public seed, for tests and experiments, and gives up the guarantee.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lumos_core.config import RunConfig, fixed
from lumos_core.learning.parameters import Params
from lumos_core.runs.history import Event
from lumos_core.safe_files import private_folder
from lumos_core.wire import deltas

ORDERS = (
    *(1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4),
    *(1 + x / 4 for x in range(1, 37)),
    *range(11, 64),
    *(int(64 * 1.25**k) for k in range(20)),
)
"""Rényi orders over which the bound is minimised; the high ones matter for small ε."""
KEY_BYTES = 32


# ---------------------------------------------------------------- noise
class Entropy:
    """A stream of random numbers: the operating system's, or one determined by a key.

    Args:
        key: None for the operating system; otherwise the seed of SHAKE-256.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key, self._drawn = key, 0

    def uniform(self, size: int) -> NDArray[np.float64]:
        """[size], in the open interval (0, 1), 53 random bits each."""
        bits = np.frombuffer(self._bytes(8 * size), dtype="<u8") >> np.uint64(11)
        return (bits.astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, shape: Sequence[int], std: float) -> NDArray[np.float64]:
        """Gaussian noise."""
        from scipy.special import ndtri  # the normal distribution's quantile function

        noise: NDArray[np.float64] = std * ndtri(self.uniform(math.prod(shape))).reshape(shape)
        return noise

    def _bytes(self, count: int) -> bytes:
        if self._key is None:
            return os.urandom(count)
        self._drawn += 1
        stream = hashlib.shake_256(self._key + self._drawn.to_bytes(8, "little"))
        return stream.digest(count)


def server_entropy(config: RunConfig, round: int) -> Entropy:
    """What the server's noise of a round is drawn from."""
    if config.dp_noise_seed < 0:
        return Entropy()
    return Entropy(_digest(b"server", config.dp_noise_seed, round))


def node_entropy(
    config: RunConfig, key: bytes, name: str, round: int, protected: Mapping[str, np.ndarray]
) -> Entropy:
    """What a node's noise of a round is drawn from.

    Args:
        key: this node's secret.
        protected: all that the reply will depend on; other values give independent noise.
    """
    if config.dp_noise_seed >= 0:
        return Entropy(_digest(b"node", config.dp_noise_seed, round, name))
    digest = hashlib.sha256()
    for array_name, array in protected.items():
        digest.update(repr((array_name, array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    # Without what may change on the way: a round that is repeated then still gives the same reply.
    run = sorted(fixed(config.to_flat()).items())
    return Entropy(_digest(b"secret", key, round, name, run, digest.digest()))


def node_key(folder: Path | None) -> bytes:
    """This node's secret: made once and kept in ``folder``, readable by its owner only; without a
    folder a new one."""
    if folder is None:
        return os.urandom(KEY_BYTES)
    path = folder / "noise.key"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        found = path.read_bytes()
        return found if len(found) == KEY_BYTES else os.urandom(KEY_BYTES)
    except FileNotFoundError:
        private_folder(folder)
        return node_key(folder)
    key = os.urandom(KEY_BYTES)
    with os.fdopen(handle, "wb") as file:
        file.write(key)
    return key


def add_noise(delta: Params, std: float, entropy: Entropy) -> Params:
    """The delta with Gaussian noise of this standard deviation on every value (float32)."""
    return {n: (a + entropy.normal(a.shape, std)).astype(np.float32) for n, a in delta.items()}


# ---------------------------------------------------------------- mechanisms
def protect(delta: Params, config: RunConfig, key: bytes, name: str, round: int) -> Params:
    """What a node does to its delta before it is encoded: nothing, clip, or clip and add noise."""
    if config.dp not in ("central", "distributed"):
        return delta
    clipped = deltas.clip(delta, config.dp_clip)
    if config.dp == "central":
        return clipped
    std = node_noise(config)
    return add_noise(clipped, std, node_entropy(config, key, name, round, clipped))


def node_noise(config: RunConfig) -> float:
    """Standard deviation of what a node adds to every value (``dp = distributed``)."""
    return config.dp_noise_multiplier * config.dp_clip / math.sqrt(config.min_replies)


def central_mean(replies: Sequence[Params], config: RunConfig, round: int) -> Params:
    """The plain mean of clipped deltas with the server's noise (``dp = central``)."""
    clipped = [deltas.clip(reply, config.dp_clip) for reply in replies]
    mean = plain_mean(clipped)
    std = config.dp_noise_multiplier * config.dp_clip / len(replies)
    return add_noise(mean, std, server_entropy(config, round))


def noisy_mean(mean: Params, nodes: int, config: RunConfig, round: int) -> Params:
    """As :func:`central_mean`, where secure aggregation shows the server nothing but the mean.

    That each node has clipped its delta is then taken on its word. Rounding before the masks moves
    every value by less than a step, which the noise covers as well.
    """
    step = config.secagg_clip / (2 ** (config.secagg_bits - 1) - 1)
    bound = config.dp_clip + step * math.sqrt(sum(a.size for a in mean.values()))
    std = config.dp_noise_multiplier * bound / nodes
    return add_noise(deltas.clip(mean, bound), std, server_entropy(config, round))


def plain_mean(replies: Sequence[Params]) -> Params:
    """The unweighted mean: nobody's part is larger than 1 / n of its own delta."""
    return {
        n: np.asarray(np.mean([r[n] for r in replies], axis=0, dtype=np.float64), np.float32)
        for n in replies[0]
    }


# ---------------------------------------------------------------- accounting
def epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """ε of ``steps`` sampled Gaussian mechanisms at ``delta``; infinite without noise."""
    return composed(noise_multiplier, {sample_rate: steps}, delta)


def composed(noise_multiplier: float, steps: Mapping[float, int], delta: float) -> float:
    """ε of sampled Gaussian mechanisms one after the other; infinite without noise.

    Args:
        noise_multiplier: of all of them.
        steps: how many there were, by their sampling rate.
        delta: δ.
    """
    if not any(steps.values()):
        return 0.0
    if not noise_multiplier:
        return math.inf
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise_multiplier, rate, n) for rate, n in sorted(steps.items())]
    return float(accountant.get_privacy_spent(delta=delta, alphas=list(ORDERS))[0])


def private_steps(users: int, config: RunConfig) -> tuple[float, int]:
    """Sampling rate and number of DP-SGD steps of one training of a node."""
    users = max(users, 1)
    rate = min(config.batch_size / users, 1.0)
    return rate, config.local_epochs * math.ceil(users / config.batch_size)


@dataclass
class Budget:
    """What a run has spent, node by node. Replaying a history's events gives the same again.

    Attributes:
        users: how many a node has now, as far as is known.
        trained: by node, how many users it had each time it was asked to train. An attempt that
            failed counts like any other: what was sent in it has been released.
    """

    config: RunConfig
    users: dict[str, int] = field(default_factory=dict)
    trained: dict[str, list[int]] = field(default_factory=dict)
    _known: dict[tuple[tuple[float, int], ...], float] = field(default_factory=dict)

    @classmethod
    def of(cls, config: RunConfig, events: Iterable[Event]) -> "Budget":
        """The budget after these events."""
        budget = cls(config)
        asked: Mapping[str, int] = {}  # of an attempt that has no outcome yet
        for event in events:
            if event["event"] == "asked":
                budget._count(asked)  # no outcome came: the server died in between
                asked = event["asked"]
            elif "privacy" in event:
                budget._count(event["privacy"]["nodes"])
                asked = {}
        budget._count(asked)
        return budget

    def ask(self, nodes: Iterable[str]) -> Event:
        """What to note before these nodes are asked, in case the server does not live to see their
        replies; nothing where only what is released costs something."""
        if self.config.dp in ("none", "central"):
            return {}
        return {"asked": {name: self.users.get(name, 1) for name in sorted(nodes)}}

    def spend(self, accepted: Iterable[str], others: Iterable[str]) -> Event:
        """Count an attempt at a round and say what it cost, for its event; nothing without privacy.

        Args:
            accepted: nodes whose replies are in the new model; none if the round failed.
            others: nodes that were asked and whose replies are not in it.
        """
        if self.config.dp == "none":
            return {}
        # With central noise a reply that is dropped is never released; else sending releases it.
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
        """ε of the node (with ``user``, of the users) that has spent most.

        Args:
            more: with another round to come, in which they take part.
        """
        return max((self._of(name, more) for name in self.trained), default=0.0)

    def spent(self) -> float | None:
        """ε so far; None where no finite one holds: without privacy or without noise."""
        found = self.epsilon()
        return found if self.config.dp != "none" and math.isfinite(found) else None

    def allows(self, node: str) -> bool:
        """Whether a node may take part in another round."""
        limit = self.config.max_epsilon
        return self.config.dp == "none" or not limit or self._of(node, more=True) <= limit

    def exhausted(self, nodes: Iterable[str]) -> str:
        """Why there may be no further round with these nodes, or nothing.

        A node that has used its budget up is left out. So a node that claims to be small, which
        makes a round dear for it, ends nobody's run but its own.
        """
        names = list(nodes) or [""]  # one that nobody has met yet is taken for the smallest
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

    def _of(self, node: str, more: bool) -> float:
        counts = [*self.trained.get(node, ()), *([self.users.get(node, 1)] if more else ())]
        steps: Counter[float] = Counter()
        for users in counts:
            rate, number = 1.0, 1
            if self.config.dp == "user":
                rate, number = private_steps(users, self.config)
            steps[rate] += number
        key = tuple(sorted(steps.items()))
        if key not in self._known:
            z, delta = self.config.dp_noise_multiplier, self.config.dp_delta
            self._known[key] = composed(z, steps, delta)
        return self._known[key]

    def _count(self, nodes: Mapping[str, int]) -> None:
        for name, users in nodes.items():
            self.trained.setdefault(name, []).append(users)
            self.users[name] = users


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()
