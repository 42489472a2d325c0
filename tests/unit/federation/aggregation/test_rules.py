"""Aggregation rules by hand, against naive formulas, and against liars."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from lumos_core.config import RunConfig, run_keys
from lumos_core.errors import ConfigError
from lumos_core.federation import aggregation
from lumos_core.federation.aggregation import (
    RULES,
    aggregate,
    clip_norms,
    clip_rows,
    mean,
    median,
    median_encoder,
    multi_krum,
    trimmed_mean,
)
from lumos_core.learning.parameters import Params


def _delta(*values: float) -> Params:
    array = np.array(values, dtype=np.float32)
    return {"a": array, "items.weight": np.stack([array, -array])}


def _equal(n: int) -> np.ndarray:
    return np.full(n, 1 / n)


def _honest(n: int, seed: int = 0) -> list[Params]:
    rng = np.random.default_rng(seed)
    return [
        {
            "items.weight": (1 + 0.1 * rng.normal(size=(3, 4))).astype(np.float32),
            "b": np.full(2, 1, "f4"),
        }
        for _ in range(n)
    ]


def _distance(found: Params, truth: float = 1.0) -> float:
    return max(float(np.abs(a - truth).max()) for a in found.values())


def test_every_rule_of_the_configuration_is_there_under_its_name() -> None:
    of_sums = {name for name, rule in RULES.items() if not rule.needs_single_deltas}
    assert set(run_keys.RULES_OF_SUMS) == of_sums
    assert set(run_keys.RULES_OF_SINGLE_DELTAS) == RULES.keys() - of_sums
    assert [made.name for made in RULES.values()] == list(RULES)
    assert all(aggregation.rule(name) is RULES[name] for name in RULES)


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"aggregation 'best': neither LUMOS nor an inst"):
        aggregation.rule("best")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "hidden",
    [
        {"secure_aggregation": True, "min_nodes": 3, "min_replies": 3},
        {"dp": "central", "weighting": "uniform"},
        {"dp": "distributed", "weighting": "uniform"},
    ],
    ids=["secure", "central", "distributed"],
)
def test_rules_and_configuration_agree_on_what_needs_single_deltas(
    rule: str, hidden: dict[str, Any]
) -> None:
    if RULES[rule].needs_single_deltas:
        with pytest.raises(ConfigError, match=f"needs aggregation = mean, found {rule}"):
            RunConfig().replace(aggregation=rule, **hidden)
    else:
        assert RunConfig().replace(aggregation=rule, **hidden).rule == rule


@pytest.mark.parametrize("rule", RULES)
def test_to_a_rule_that_needs_no_single_deltas_their_sum_says_all(rule: str) -> None:
    """Else it would give another result under secure aggregation."""
    lies = [{n: np.full_like(a, 50.0) for n, a in d.items()} for d in _honest(2)]
    deltas, weights = [*_honest(5), *lies], np.array([0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1])
    whole = {
        n: sum(w * d[n] for w, d in zip(weights, deltas, strict=True)).astype(np.float32)
        for n in deltas[0]
    }
    apart = RULES[rule].function(deltas, weights)
    together = RULES[rule].function([whole], np.ones(1))
    same = all(np.allclose(apart[n], together[n], rtol=1e-5) for n in whole)
    assert same is not RULES[rule].needs_single_deltas


@pytest.mark.parametrize("rule", RULES)
def test_a_single_node_is_taken_as_it_is(rule: str) -> None:
    (delta,) = _honest(1)
    found = RULES[rule].function([delta], np.ones(1))
    assert list(found) == list(delta)
    assert all(np.array_equal(found[n], delta[n]) for n in delta)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11])
def test_equal_deltas_aggregate_to_themselves(rule: str, n: int) -> None:
    (delta,) = _honest(1)
    found = RULES[rule].function([delta] * n, _equal(n))
    for name in delta:
        np.testing.assert_allclose(found[name], delta[name], rtol=1e-6)
        assert found[name].dtype == np.float32
        assert found[name].shape == delta[name].shape


def test_mean_is_weighted() -> None:
    found = mean([_delta(1, 0), _delta(0, 4)], np.array([0.75, 0.25]))
    assert found["a"].tolist() == [0.75, 1.0]
    assert found["items.weight"].tolist() == [[0.75, 1.0], [-0.75, -1.0]]


def test_a_mean_of_many_takes_no_more_memory_than_that_of_few() -> None:
    delta = {"a": np.ones((200, 100), dtype=np.float32)}

    def peak(count: int) -> int:
        tracemalloc.start()
        mean([delta] * count, _equal(count))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(100) < 1.1 * peak(3)


def test_median_is_taken_coordinate_by_coordinate() -> None:
    deltas = [_delta(1, 9), _delta(2, -5), _delta(30, 0)]
    assert median(deltas, np.array([0.98, 0.01, 0.01]))["a"].tolist() == [2.0, 0.0]
    assert median(deltas[:2], _equal(2))["a"].tolist() == [1.5, 2.0]


def test_trimmed_mean_drops_as_many_at_either_end() -> None:
    assert trimmed_mean([_delta(v) for v in (0, 2)], _equal(2))["a"].tolist() == [1.0]
    assert trimmed_mean([_delta(v) for v in (0, 1, 50)], _equal(3))["a"].tolist() == [1.0]
    twenty = [_delta(v) for v in range(20)]  # 10 % are two at either end
    assert trimmed_mean(twenty, _equal(20))["a"].tolist() == [float(np.mean(range(2, 18)))]
    spread = [*[_delta(0)] * 10, *[_delta(7)] * 8, _delta(1e6), _delta(-1e6)]
    assert trimmed_mean(spread, _equal(20))["a"][0] == pytest.approx(np.mean([0] * 9 + [7] * 7))


def test_multi_krum_follows_its_definition() -> None:
    rng = np.random.default_rng(35)  # where one neighbour more or less changes who is kept
    deltas = [{"a": rng.normal(size=4).astype("f4"), "b": rng.normal(size=2).astype("f4")}
              for _ in range(9)]  # fmt: skip
    n, f = 9, 3
    flat = [np.concatenate([d["a"], d["b"]]).astype(np.float64) for d in deltas]
    scores = []
    for i in range(n):
        others = sorted(float(((flat[i] - flat[j]) ** 2).sum()) for j in range(n) if j != i)
        scores.append(sum(others[: n - f - 2]))
    kept = sorted(range(n), key=scores.__getitem__)[: n - f]
    weights = rng.random(n)
    expected = sum(weights[i] * flat[i] for i in kept) / weights[kept].sum()
    found = multi_krum(deltas, weights / weights.sum())
    np.testing.assert_allclose(np.concatenate([found["a"], found["b"]]), expected, rtol=1e-5)


def test_multi_krum_of_few_is_the_mean() -> None:
    deltas, weights = _honest(4), np.array([0.4, 0.3, 0.2, 0.1])
    assert all(
        np.array_equal(a, mean(deltas, weights)[n]) for n, a in multi_krum(deltas, weights).items()
    )


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "multi-krum"])
@pytest.mark.parametrize("lie", [50.0, -50.0, 1e4])
def test_robust_rules_withstand_a_liar(rule: str, lie: float) -> None:
    liar = {n: np.full_like(a, lie) for n, a in _honest(1)[0].items()}
    deltas = [liar, *_honest(8)]
    weights = np.array([0.92, *[0.01] * 8])  # and it claims to have nearly all users
    assert _distance(RULES[rule].function(deltas, weights)) < 0.5
    assert _distance(mean(deltas, weights)) > 10, "the mean shows that the attack is one"


@pytest.mark.parametrize("rule", ["median", "multi-krum"])
def test_they_withstand_as_many_as_they_promise(rule: str) -> None:
    liars = [{n: np.full_like(a, -30.0) for n, a in d.items()} for d in _honest(4)]
    deltas = [*liars, *_honest(7)]  # 11: f = 4
    assert _distance(RULES[rule].function(deltas, _equal(11))) < 0.5


def test_multi_krum_tells_neighbours_apart_far_from_the_origin() -> None:
    """Distances come from scalar products: a large common part must not drown them."""
    near = _honest(9)
    far = [{n: a + np.float32(1e3) for n, a in d.items()} for d in near]
    expected = multi_krum([{n: a - np.float32(1e3) for n, a in d.items()} for d in far], _equal(9))
    found = multi_krum(far, _equal(9))
    for name in found:
        np.testing.assert_allclose(found[name] - 1e3, expected[name], atol=2e-4)


@pytest.mark.parametrize("rule", RULES)
def test_inputs_are_left_alone(rule: str) -> None:
    deltas = _honest(6)
    before = [{n: a.copy() for n, a in d.items()} for d in deltas]
    RULES[rule].function(deltas, _equal(6))
    for delta, old in zip(deltas, before, strict=True):
        assert all(np.array_equal(delta[n], old[n]) for n in old)


def test_the_encoder_is_a_median_and_the_table_a_mean() -> None:
    deltas, weights = _honest(5), np.array([0.1, 0.2, 0.3, 0.1, 0.3])
    found = median_encoder(deltas, weights)
    np.testing.assert_array_equal(found["items.weight"], mean(deltas, weights)["items.weight"])
    np.testing.assert_array_equal(found["b"], median(deltas, weights)["b"])
    idle = {n: np.zeros_like(a) for n, a in deltas[0].items()}
    found = median_encoder([*deltas, *[idle] * 15], np.full(20, 0.05))
    np.testing.assert_allclose(found["b"], 0.25 * median(deltas, weights)["b"], rtol=1e-6)
    two = median_encoder(deltas[:2], np.array([0.2, 0.8]))
    np.testing.assert_array_equal(two["b"], mean(deltas[:2], np.array([0.2, 0.8]))["b"])


def test_liars_that_put_their_whole_norm_into_the_encoder_are_bounded_by_honest_nodes() -> None:
    """Clipping bounds how long a delta is, not where it points."""
    honest = _honest(7)
    rng = np.random.default_rng(1)
    for delta in honest:
        delta["b"] = rng.normal(1, 0.1, size=2).astype(np.float32)
    liar = {"items.weight": np.zeros((3, 4), "f4"), "b": np.full(2, -1e3, "f4")}
    default = RunConfig()
    bounded = aggregate([*honest, liar, liar, liar], np.full(10, 0.1), default)["b"]
    averaged = aggregate(
        [*honest, liar, liar, liar], np.full(10, 0.1), default.replace(aggregation="mean")
    )["b"]
    least = np.min([d["b"] for d in honest], axis=0)
    assert (bounded >= 0.9 * least).all()
    assert (averaged < 0.5 * least).all()


def _long(size: float) -> Params:
    return {"items.weight": np.full((3, 4), size, "f4"), "b": np.full(2, size, "f4")}


@pytest.mark.parametrize("clip", [clip_norms, clip_rows])
def test_nodes_without_anything_to_learn_from_say_nothing_of_what_is_typical(clip: Any) -> None:
    idle = [_long(0.0)] * 6
    honest = [_long(1.0)] * 5
    clipped = clip([*idle, *honest], 1.0)
    assert all(np.array_equal(a["items.weight"], b["items.weight"])
               for a, b in zip(clipped, [*idle, *honest], strict=True))  # fmt: skip
    one, liar = clip([*idle, _long(1.0), _long(50.0)], 1.0)[-2:]
    np.testing.assert_allclose(liar["items.weight"], one["items.weight"], rtol=1e-6)
    assert all(not delta["items.weight"].any() for delta in clip(idle, 1.0))


# ---------------------------------------------------------------- item bias
def _with_bias(values: list[float]) -> Params:
    bias = np.array(values, dtype="f4")
    table = np.zeros((len(values), 2), dtype="f4")
    table[1:] = 0.1
    return {"items.weight": table, "bias": bias, "encoder": np.full(3, 0.1, dtype="f4")}


def test_the_bias_of_one_item_is_bounded_like_a_row() -> None:
    honest = [_with_bias([0.0, 0.1, -0.1, 0.1, -0.1]) for _ in range(3)]
    boosted = _with_bias([0.0, -0.1, -0.1, -0.1, 50.0])
    *kept, clipped = clip_rows([*honest, boosted], 1.25)
    for before, after in zip(honest, kept, strict=True):
        assert all(np.array_equal(before[n], after[n]) for n in before)
    assert clipped["bias"] == pytest.approx([0.0, -0.1, -0.1, -0.1, 0.125], abs=1e-6)
    assert clipped["bias"].shape == (5,)


def test_one_node_that_met_an_item_moves_its_bias() -> None:
    """As its row: in a median, all items that most nodes did not meet would lose for ever."""
    deltas = [_with_bias([0.0, -0.1, -0.1, -0.1, 0.8]), *[_with_bias([0.0, *[-0.1] * 4])] * 3]
    found = RULES["median-encoder"].function(deltas, np.full(4, 0.25))
    assert found["bias"] == pytest.approx([0.0, -0.1, -0.1, -0.1, 0.125])
