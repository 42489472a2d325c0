"""Server optimisers against the formulas of the papers, written out in float64."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.federation import server_optimizer
from lumos_core.federation.server_optimizer import ADAM_BETA2, ADAM_EPSILON, step
from lumos_core.learning.parameters import Params
from lumos_core.runs.checkpoint import (
    Checkpoint,
    OptimizerState,
    RunProgress,
    load_checkpoint,
    save_checkpoint,
)

Tiny = Callable[..., RunConfig]
STEPS = 6


def _deltas() -> list[Params]:
    rng = np.random.default_rng(0)
    return [
        {"a": rng.normal(size=(3, 2)).astype("f4"), "b": 0.1 * rng.normal(size=4).astype("f4")}
        for _ in range(STEPS)
    ]


def _start() -> Params:
    return {"a": np.ones((3, 2), dtype=np.float32), "b": np.zeros(4, dtype=np.float32)}


def _run(config: RunConfig) -> Params:
    params, state = _start(), OptimizerState()
    for delta in _deltas():
        params, state = step(params, delta, state, config)
    return params


def _check(found: Params, expected: dict[str, np.ndarray]) -> None:
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)


def test_sgd_is_a_sum(tiny: Tiny) -> None:
    found = _run(tiny(server_optimizer="sgd", server_learning_rate=0.5))
    _check(found, {n: a + 0.5 * sum(d[n] for d in _deltas()) for n, a in _start().items()})


def test_sgd_at_one_is_fedavg(tiny: Tiny) -> None:
    """The mean of the nodes' models themselves: what FedAvg is defined as."""
    (delta, *_) = _deltas()
    params, state = step(_start(), delta, {}, tiny(server_optimizer="sgd"))
    assert all(np.array_equal(params[n], _start()[n] + delta[n]) for n in params)
    assert state == {}


def test_momentum(tiny: Tiny) -> None:
    config = tiny(server_optimizer="momentum", server_momentum=0.8, server_learning_rate=0.5)
    expected = {n: a.astype(np.float64) for n, a in _start().items()}
    velocity = {n: np.zeros_like(a) for n, a in expected.items()}
    for delta in _deltas():
        for n in expected:
            velocity[n] = 0.8 * velocity[n] + delta[n]
            expected[n] = expected[n] + 0.5 * velocity[n]
    _check(_run(config), expected)


def test_no_momentum_is_sgd(tiny: Tiny) -> None:
    still = _run(tiny(server_optimizer="momentum", server_momentum=0.0))
    plain = _run(tiny(server_optimizer="sgd"))
    assert all(np.array_equal(still[n], plain[n]) for n in plain)


def test_adam(tiny: Tiny) -> None:
    config = tiny(server_optimizer="adam", server_momentum=0.9, server_learning_rate=0.01)
    expected = {n: a.astype(np.float64) for n, a in _start().items()}
    m = {n: np.zeros_like(a) for n, a in expected.items()}
    v = {n: np.zeros_like(a) for n, a in expected.items()}
    for delta in _deltas():
        for n in expected:
            m[n] = 0.9 * m[n] + 0.1 * delta[n]
            v[n] = ADAM_BETA2 * v[n] + (1 - ADAM_BETA2) * delta[n].astype(np.float64) ** 2
            expected[n] = expected[n] + 0.01 * m[n] / (np.sqrt(v[n]) + ADAM_EPSILON)
    _check(_run(config), expected)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_inputs_are_left_alone_and_order_is_kept(tiny: Tiny, optimizer: str) -> None:
    config = tiny(server_optimizer=optimizer)
    params, deltas = _start(), _deltas()
    _, state = step(params, deltas[0], {}, config)
    before = {n: a.copy() for n, a in state.items()}
    after, _ = step(params, deltas[1], state, config)
    assert list(after) == list(params)
    assert all(np.array_equal(params[n], a) for n, a in _start().items())
    assert all(np.array_equal(deltas[1][n], a) for n, a in _deltas()[1].items())
    assert all(np.array_equal(state[n], a) for n, a in before.items())


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_state_survives_a_checkpoint_bit_by_bit(tiny: Tiny, optimizer: str, tmp_path: Path) -> None:
    config = tiny(server_optimizer=optimizer)
    params, state = _start(), OptimizerState()
    for delta in _deltas():
        path = tmp_path / "c"
        progress = RunProgress(0, -1, 0.0, 0, "", "", config.to_flat())
        save_checkpoint(path, Checkpoint(params, state, progress))
        loaded = load_checkpoint(path)
        assert set(loaded.optimizer) == set(state)
        params, state = step(loaded.params, delta, loaded.optimizer, config)
    straight = _run(config)
    assert all(np.array_equal(params[n], straight[n]) for n in straight)


def test_adam_of_a_zero_delta_stays_where_it_is(tiny: Tiny) -> None:
    """Rows that nobody trained (items that no sampled node holds) must not turn into NaN."""
    zero = {n: np.zeros_like(a) for n, a in _start().items()}
    params, _ = server_optimizer.step(_start(), zero, {}, tiny(server_optimizer="adam"))
    assert all(np.array_equal(params[n], a) for n, a in _start().items())
