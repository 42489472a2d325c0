"""Model deltas: the only arrays that leave a node. Subtract, apply, measure, clip.

:mod:`lumos_core.wire.codecs` encodes them for the wire.
"""

from collections.abc import Mapping

import numpy as np

from lumos_core.errors import ReplyError
from lumos_core.learning.parameters import Params


def subtract(local: Mapping[str, np.ndarray], received: Mapping[str, np.ndarray]) -> Params:
    """``local − received``, name by name (float32)."""
    return {name: local[name] - received[name] for name in received}


def add(params: Mapping[str, np.ndarray], delta: Mapping[str, np.ndarray]) -> Params:
    """``params + delta``, name by name (float32)."""
    return {name: (params[name] + delta[name]).astype(np.float32) for name in params}


def norm(delta: Mapping[str, np.ndarray]) -> float:
    """L2 norm of the whole delta, in float64 so that it cannot overflow float32."""
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in delta.values())))


def clip(delta: Mapping[str, np.ndarray], limit: float) -> Params:
    """The delta, scaled down to norm ``limit`` if its norm is larger (float32, direction kept).

    A delta with NaN or infinite values becomes zero: callers rely on the bound, so it must hold for
    every input.
    """
    found = norm(delta)
    if not np.isfinite(found):
        return {name: np.zeros_like(array, dtype=np.float32) for name, array in delta.items()}
    if found <= limit:
        return {name: array.astype(np.float32) for name, array in delta.items()}
    factor = limit / found * (1 - 1e-6)  # the margin covers rounding to float32
    return {name: (array * factor).astype(np.float32) for name, array in delta.items()}


def check_norm(delta: Mapping[str, np.ndarray], limit: float) -> float:
    """The delta's norm.

    Raises:
        ReplyError: it exceeds ``limit``.
    """
    found = norm(delta)
    if not found <= limit:
        raise ReplyError(f"delta has norm {found:.3g}, more than max-delta-norm = {limit:.3g}")
    return found
