"""Server optimisers: how the global model moves along the aggregated delta.

The aggregated delta takes the place of a negative gradient (Reddi et al., ICLR 2021). The state is
a flat mapping of arrays, so that a checkpoint can store it: a resumed run then computes bit for bit
what it would have computed without the stop.
"""

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.learning.parameters import Params
from lumos_core.runs.checkpoint import OptimizerState
from lumos_core.wire import deltas

ADAM_BETA2 = 0.99
ADAM_EPSILON = 1e-3


def step(
    params: Params, delta: Params, state: OptimizerState, config: RunConfig
) -> tuple[Params, OptimizerState]:
    """One server step.

    Args:
        params: global parameters.
        delta: aggregated delta, same names and shapes.
        state: what the previous step returned; empty before the first step.
        config: ``server-optimizer``, ``server-learning-rate``, ``server-momentum``.

    Returns:
        New parameters and new state; the inputs are left as they are.
    """
    if config.server_optimizer == "sgd":
        update, state = delta, {}
    elif config.server_optimizer == "momentum":
        update = {n: _previous(state, n, d) * config.server_momentum + d for n, d in delta.items()}
        state = update
    else:
        update, state = _adam(delta, state, config.server_momentum)
    lr = np.float32(config.server_learning_rate)
    return deltas.add(params, {n: u * lr for n, u in update.items()}), state


def _adam(delta: Params, state: OptimizerState, beta1: float) -> tuple[Params, OptimizerState]:
    """FedAdam, Algorithm 2 of Reddi et al.; like the original it has no bias correction."""
    new: OptimizerState = {}
    update: Params = {}
    for name, d in delta.items():
        m = beta1 * _previous(state, f"m:{name}", d) + (1 - beta1) * d
        v = ADAM_BETA2 * _previous(state, f"v:{name}", d) + (1 - ADAM_BETA2) * np.square(d)
        new[f"m:{name}"], new[f"v:{name}"] = m.astype(np.float32), v.astype(np.float32)
        update[name] = (m / (np.sqrt(v) + ADAM_EPSILON)).astype(np.float32)
    return update, new


def _previous(state: OptimizerState, name: str, like: np.ndarray) -> np.ndarray:
    found = state.get(name)
    return np.zeros_like(like) if found is None else found
