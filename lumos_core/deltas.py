"""Model deltas: the only arrays that leave a node. Subtract, apply, measure, encode, check.

On the wire a delta is a mapping from the global model's parameter names to arrays of the same
shapes in the agreed codec:

========= ==============================================================================
float32   as is
float16   half the bytes; round to nearest
int8      a quarter: per row (last axis) a scale ``max|x| / 127`` in a second array named
          ``<name>:scale`` (float32), values rounded stochastically so that the mean over
          nodes is unbiased
========= ==============================================================================
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from lumos_core.errors import ReplyError
from lumos_core.model import Params

Codec = Literal["float32", "float16", "int8"]
SCALE = ":scale"


def subtract(local: Mapping[str, np.ndarray], received: Mapping[str, np.ndarray]) -> Params:
    """``local − received``, name by name (float32)."""
    return {name: local[name] - received[name] for name in received}


def add(params: Mapping[str, np.ndarray], delta: Mapping[str, np.ndarray]) -> Params:
    """``params + delta``, name by name (float32)."""
    return {name: (params[name] + delta[name]).astype(np.float32) for name in params}


def norm(delta: Mapping[str, np.ndarray]) -> float:
    """L2 norm of the whole delta, in float64 so that it cannot overflow float32."""
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in delta.values())))


def encode(delta: Mapping[str, np.ndarray], codec: Codec, rng: np.random.Generator) -> Params:
    """Arrays to send. ``rng`` draws the stochastic rounding of int8."""
    if codec == "float32":
        return {n: np.ascontiguousarray(a, dtype=np.float32) for n, a in delta.items()}
    if codec == "float16":
        limit = float(np.finfo(np.float16).max)
        return {n: np.clip(a, -limit, limit).astype(np.float16) for n, a in delta.items()}
    arrays: Params = {}
    for name, array in delta.items():
        scale = np.abs(array).max(axis=-1, initial=0.0) / 127.0  # [...] without the last axis
        safe = np.where(scale > 0, scale, 1.0)[..., None]
        arrays[name] = np.floor(array / safe + rng.random(array.shape)).clip(-127, 127)
        arrays[name] = arrays[name].astype(np.int8)
        arrays[name + SCALE] = np.asarray(scale, dtype=np.float32)
    return arrays


def decode(
    arrays: Mapping[str, np.ndarray], codec: Codec, like: Mapping[str, np.ndarray]
) -> Params:
    """Check a received delta against the global model and turn it into float32.

    Args:
        arrays: what a node sent; nothing about it is taken on trust.
        codec: the agreed codec.
        like: the global parameters; names and shapes must be theirs exactly.

    Raises:
        ReplyError: a name is missing or unknown, a shape or dtype is wrong, a value is not finite,
            or a scale is negative or so large that values overflow.
    """
    expected = _wire_layout(codec, like)
    for name in sorted(expected.keys() - arrays.keys()):
        raise ReplyError(f"delta lacks '{name}'")
    for unknown in sorted(str(name) for name in arrays.keys() - expected.keys()):
        raise ReplyError(f"delta holds an array that the model does not have: {unknown[:80]!r}")
    for name, (shape, dtype) in expected.items():
        found = arrays[name]
        if not isinstance(found, np.ndarray):
            raise ReplyError(f"delta '{name}' is a {type(found).__name__}, expected an array")
        if found.shape != shape:
            raise ReplyError(f"delta '{name}' has shape {found.shape}, expected {shape}")
        if found.dtype != dtype:
            raise ReplyError(f"delta '{name}' has dtype {found.dtype}, expected {dtype}")
        if dtype.kind == "f" and not np.isfinite(found).all():
            raise ReplyError(f"delta '{name}' holds NaN or infinite values")
    if codec == "int8":
        return {n: _dequantise(n, arrays[n], arrays[n + SCALE]) for n in like}
    return {n: np.asarray(arrays[n], dtype=np.float32) for n in like}


def check_norm(delta: Mapping[str, np.ndarray], limit: float) -> float:
    """The delta's norm.

    Raises:
        ReplyError: it exceeds ``limit``.
    """
    found = norm(delta)
    if not found <= limit:
        raise ReplyError(f"delta has norm {found:.3g}, more than max-delta-norm = {limit:.3g}")
    return found


def wire_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Payload bytes of a set of arrays."""
    return sum(a.nbytes for a in arrays.values())


def _dequantise(name: str, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int8 [..., D] times non-negative float32 [...]."""
    if (scale < 0).any():
        raise ReplyError(f"delta '{name + SCALE}' holds negative scales")
    if (scale > np.finfo(np.float32).max / 128).any():
        raise ReplyError(f"delta '{name + SCALE}' holds scales beyond the range of float32")
    decoded: np.ndarray = values.astype(np.float32) * scale[..., None]
    return decoded


def _wire_layout(
    codec: Codec, like: Mapping[str, np.ndarray]
) -> dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]:
    layout = {n: (a.shape, np.dtype(codec)) for n, a in like.items()}
    if codec == "int8":
        for name, array in like.items():
            layout[name + SCALE] = (array.shape[:-1], np.dtype(np.float32))
    return layout
