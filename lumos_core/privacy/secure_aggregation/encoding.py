"""Deltas and counts ⇄ vectors of integers that can be added modulo 2^32.

A vector is uint32 [parameters + 4 · counts]. A *parameter* is one number of the delta: the node
clips its delta to an L2 norm of ``secagg-clip``, multiplies it by weight / ``secagg-max-weight``,
and rounds it stochastically (so that the sum is unbiased) to a signed integer of ``secagg-bits``
bits. A *count* is one metric of the reply, or the weight itself, as a fixed-point number of 64 bits
in four words that hold 16 bits each, so that sums of up to 2^16 nodes keep their carries.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.errors import ModelError, ReplyError
from lumos_core.learning.parameters import Params
from lumos_core.privacy import mechanisms
from lumos_core.wire import deltas
from lumos_core.wire.messages import Metrics
from lumos_core.wire.reply_checks import MAX_COUNT, train_names

_LIMBS, _LIMB_BITS = 4, 16
_FRACTION = 2**30  # of the fixed-point numbers; MAX_COUNT < 2^30, so that 60 of 64 bits are used
_WEIGHT = "weight"
_NOISE_MARGIN = 2.0  # on hundreds of values the norm of noise is within a few % of its mean


@dataclass(frozen=True)
class Encoding:
    """The format of a vector, which both sides have to agree on.

    Attributes:
        clip: L2 norm to which a node clips its delta.
        bits: bits of one quantised parameter, sign included.
        weighting: the metric that is a node's weight, or "uniform".
        max_weight: the largest weight of a node; the smallest is 1.
        shapes: shapes of the parameters, in the model's order.
        metrics: names of the metrics, sorted.
        noise: standard deviation of the noise that a node has added to its delta after clipping it.
            With noise, ``clip`` only limits single values. None if the node adds no noise; then
            the norm is clipped here.
        longest: the largest L2 norm of a delta before noise and rounding.
    """

    clip: float
    bits: int
    weighting: str
    max_weight: int
    shapes: Mapping[str, tuple[int, ...]]
    metrics: tuple[str, ...]
    noise: float | None = None
    longest: float = math.inf

    @classmethod
    def of(cls, config: RunConfig, like: Params, evaluated: bool) -> "Encoding":
        """The encoding of replies to an instruction that carries the model ``like``.

        Args:
            evaluated: whether the instruction asks to evaluate the received model as well.
        """
        uniform = config.weighting == "uniform"
        return cls(
            config.secagg_clip,
            config.secagg_bits,
            config.weighting,
            1 if uniform else config.secagg_max_weight,
            {name: array.shape for name, array in like.items()},
            tuple(sorted(train_names(config, evaluated))),
            mechanisms.node_noise(config) if config.dp == "distributed" else None,
            config.dp_clip if config.dp == "distributed" else config.secagg_clip,
        )

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def size(self) -> int:
        """Number of words of a vector."""
        return self.parameters + _LIMBS * (len(self.metrics) + 1)

    @property
    def step(self) -> float:
        """Distance of two neighbouring values of a weighted parameter."""
        return self.clip / self._largest

    @property
    def rounding(self) -> float:
        """The largest L2 norm that rounding can add to one node's vector, in units of the delta."""
        return self.step * math.sqrt(self.parameters)

    @property
    def _largest(self) -> int:
        return int(2 ** (self.bits - 1)) - 1

    def weight_of(self, metrics: Mapping[str, float]) -> int:
        """A node's weight by its metrics: 1 … ``max_weight``."""
        claimed = 1 if self.weighting == "uniform" else int(metrics[self.weighting])
        return min(max(claimed, 1), self.max_weight)

    # --- the node's side

    def encode(self, delta: Params, metrics: Metrics, rng: np.random.Generator) -> np.ndarray:
        """The vector that a node contributes to the sum: uint32 [size].

        Args:
            delta: float arrays with the model's names and shapes.
            metrics: exactly those of :attr:`metrics`.
            rng: draws the rounding.

        Raises:
            ModelError: the delta is not finite.
        """
        norm = deltas.norm(delta)
        if not math.isfinite(norm):
            raise ModelError("training diverged: the delta holds NaN or infinite values")
        weight = self.weight_of(metrics)
        excess = max(norm / self.clip, 1.0) if self.noise is None else 1.0
        factor = weight / self.max_weight / excess / self.step
        flat = np.concatenate([delta[name].ravel() for name in self.shapes]) * np.float64(factor)
        rounded = np.floor(flat + rng.random(len(flat))).clip(-self._largest, self._largest)
        counts = [_limbs(metrics[name]) for name in self.metrics]
        words = [rounded.astype(np.int32).view(np.uint32), *counts, _limbs(weight)]
        return np.concatenate(words)

    # --- the server's side

    def decode(self, total: np.ndarray, nodes: int) -> tuple[Params, Metrics]:
        """The weighted mean of the clipped deltas, and the sums of the metrics.

        Args:
            total: uint32 [size], the sum of ``nodes`` vectors.

        Raises:
            ReplyError: valid vectors cannot have this sum: a node did not follow the protocol.
        """
        values = total[: self.parameters].view(np.int32)
        if np.abs(values, dtype=np.int64).max(initial=0) > nodes * self._largest:
            raise ReplyError("the unmasked sum is out of range")
        names = (*self.metrics, _WEIGHT)
        limbs = total[self.parameters :].reshape(len(names), _LIMBS)
        sums = {name: _number(row) for name, row in zip(names, limbs, strict=True)}
        for name, value in sums.items():
            if value > nodes * MAX_COUNT:
                raise ReplyError(f"the unmasked sum of '{name}' is out of range")
        weight = sums.pop(_WEIGHT)
        if not nodes <= weight <= nodes * self.max_weight:
            raise ReplyError("the unmasked sum of the weights is out of range")
        scale = self.step * self.max_weight / weight
        mean = self._shaped(values * np.float64(scale))
        slack = nodes * self.rounding * self.max_weight / weight
        noise = (self.noise or 0.0) * math.sqrt(self.parameters / nodes)  # norm of the mean noise
        if not deltas.norm(mean) <= self.longest + slack + _NOISE_MARGIN * noise:
            raise ReplyError(
                "the unmasked mean exceeds what clipped deltas have: a node did not clip its own"
            )
        return mean, {name: sums[name] for name in self.metrics}

    def as_delta(self, vector: np.ndarray) -> Params:
        """A vector read as if it were a node's delta, masked or not."""
        return self._shaped(vector[: self.parameters].view(np.int32) * np.float64(self.step))

    def _shaped(self, flat: np.ndarray) -> Params:
        found: Params = {}
        start = 0
        for name, shape in self.shapes.items():
            end = start + math.prod(shape)
            found[name] = flat[start:end].reshape(shape).astype(np.float32)
            start = end
        return found


def _limbs(value: float) -> np.ndarray:
    """0 … MAX_COUNT as four words of 16 bits, lowest first."""
    if not 0 <= value <= MAX_COUNT:  # false for NaN, too
        raise ModelError(f"a metric is {value!r}, expected 0 … {MAX_COUNT:.0e}")
    fixed = round(value * _FRACTION)
    mask = 2**_LIMB_BITS - 1
    return np.array([fixed >> (i * _LIMB_BITS) & mask for i in range(_LIMBS)], dtype=np.uint32)


def _number(limbs: np.ndarray) -> int | float:
    """The number that four summed words represent; an int if it is whole."""
    fixed = sum(int(word) << (i * _LIMB_BITS) for i, word in enumerate(limbs))
    return fixed // _FRACTION if fixed % _FRACTION == 0 else fixed / _FRACTION
