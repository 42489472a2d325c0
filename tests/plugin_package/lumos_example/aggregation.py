"""An aggregation rule: half way between the smallest and the largest value of each coordinate."""

from collections.abc import Sequence

import numpy as np

from lumos_core.federation.aggregation.rules import Rule
from lumos_core.learning.parameters import Params


def midpoint(deltas: Sequence[Params], weights: np.ndarray) -> Params:
    """Weights do not count."""
    stacked = {name: np.stack([delta[name] for delta in deltas]) for name in deltas[0]}
    return {n: ((a.min(axis=0) + a.max(axis=0)) / 2).astype(np.float32) for n, a in stacked.items()}


MIDPOINT = Rule("midpoint", midpoint, needs_single_deltas=True)
