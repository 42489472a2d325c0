"""Every fault that a train or evaluate reply can have."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.errors import ReplyError
from lumos_core.wire.messages import Metrics
from lumos_core.wire.reply_checks import (
    EVALUATION_METRICS,
    MAX_COUNT,
    TRAIN_METRICS,
    check_evaluation,
    check_preparation,
    check_train,
    preparation,
    rankings_of,
)

Tiny = Callable[..., RunConfig]
LIKE = {"w": np.zeros((2, 3), np.float32)}
DELTA = {"w": np.ones((2, 3), np.float32)}


def _train() -> Metrics:
    return {
        "users": 4,
        "examples": 20,
        "loss": 31.5,
        "contrastive": 0.0,
        "contrastive-users": 0,
        "views-complete": 1,
        "seconds": 0.1,
    }


def _evaluation() -> Metrics:
    sums: Metrics = dict.fromkeys(EVALUATION_METRICS, 1.0)
    return {**sums, "eval-users": 4.0, "eval-hr@20": 3.0}


def test_a_good_train_reply_passes(tiny: Tiny) -> None:
    delta = check_train(DELTA, _train(), LIKE, tiny(), evaluated=False)
    assert np.array_equal(delta["w"], DELTA["w"])
    check_train(DELTA, {**_train(), **_evaluation()}, LIKE, tiny(), evaluated=True)


def test_a_good_evaluation_passes() -> None:
    check_evaluation(_evaluation())
    sums = rankings_of(_evaluation(), (0.0,))[0.0]
    assert sums["users"] == 4.0
    assert sums["hr@20"] == 3.0
    assert len(sums) == len(EVALUATION_METRICS)


def test_a_perfect_model_and_rounding_errors_pass() -> None:
    perfect: Metrics = dict.fromkeys(EVALUATION_METRICS, 3.0000000001)
    check_evaluation({**perfect, "eval-users": 3})


def test_an_evaluation_of_nobody_passes() -> None:
    check_evaluation(dict.fromkeys(EVALUATION_METRICS, 0))


def test_a_node_without_training_examples_is_valid(tiny: Tiny) -> None:
    """A user with three purchases trains on one, and one item predicts nothing."""
    check_train(DELTA, {**_train(), "examples": 0, "loss": 0.0}, LIKE, tiny(), evaluated=False)


@pytest.mark.parametrize("name", sorted(TRAIN_METRICS))
def test_every_train_metric_is_needed(tiny: Tiny, name: str) -> None:
    metrics = _train()
    del metrics[name]
    with pytest.raises(ReplyError, match=f"'{name}' is missing"):
        check_train(DELTA, metrics, LIKE, tiny(), evaluated=False)


@pytest.mark.parametrize("name", sorted(EVALUATION_METRICS))
def test_every_evaluation_metric_is_needed(tiny: Tiny, name: str) -> None:
    metrics = _evaluation()
    del metrics[name]
    with pytest.raises(ReplyError, match=f"'{name}' is missing"):
        check_evaluation(metrics)
    with pytest.raises(ReplyError, match=f"'{name}' is missing"):
        check_train(DELTA, {**_train(), **metrics}, LIKE, tiny(), evaluated=True)


@pytest.mark.parametrize("name", ["user-ids", "eval-users", "loss ", "", "x" * 10_000, "a\nb", 7])
def test_nothing_else_is_taken(tiny: Tiny, name: Any) -> None:
    with pytest.raises(ReplyError, match="unknown metric") as caught:
        check_train(DELTA, {**_train(), name: 1}, LIKE, tiny(), evaluated=False)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_an_evaluation_that_was_not_asked_for_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ReplyError, match="unknown metric 'eval-"):
        check_train(DELTA, {**_train(), **_evaluation()}, LIKE, tiny(), evaluated=False)


@pytest.mark.parametrize("name", sorted(TRAIN_METRICS))
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "not finite"),
        (math.inf, "not finite"),
        (-math.inf, "not finite"),
        (-1, "is -1, expected 0"),
        (MAX_COUNT + 1, "expected 0 … 1e"),
        pytest.param(10**5000, "expected 0 … 1e", id="beyond floats and printing"),
        (True, "is a bool"),
        ("4", "is a str"),
        (None, "is a NoneType"),
        ([4], "is a list"),
        (np.ones(1), "is a ndarray"),
        (4 + 0j, "is a complex"),
    ],
)
def test_no_metric_may_be_absurd(tiny: Tiny, name: str, value: Any, message: str) -> None:
    with pytest.raises(ReplyError, match=f"'{name}' {message}|'{name}' .*{message}"):
        check_train(DELTA, {**_train(), name: value}, LIKE, tiny(), evaluated=False)


@pytest.mark.parametrize("name", ["users", "examples", "contrastive-users"])
def test_counts_are_whole(tiny: Tiny, name: str) -> None:
    with pytest.raises(ReplyError, match=f"'{name}' is 2.5, expected a whole number"):
        check_train(DELTA, {**_train(), name: 2.5}, LIKE, tiny(), evaluated=False)


@pytest.mark.parametrize(("value", "nodes"), [(2, 1), (0.5, 1), (4, 3)])
def test_flags_are_yes_or_no(tiny: Tiny, value: float, nodes: int) -> None:
    with pytest.raises(ReplyError, match=f"'views-complete' is {value}, expected 0 … {nodes}"):
        check_train(
            DELTA, {**_train(), "views-complete": value}, LIKE, tiny(), evaluated=False, nodes=nodes
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"percent": 101}, "'percent' is 101, expected 0 … 100"),
        ({"percent": 12.5}, "'percent' is 12.5, expected a whole number"),
        ({"done": 2}, "'done' is 2, expected 0 … 1"),
        ({"seconds-left": float("nan")}, "'seconds-left' is not finite"),
        ({"users": 3}, "unknown metric 'users'"),
    ],
)
def test_an_answer_about_views_holds_two_flags_and_how_far(
    change: dict[str, Any], message: str
) -> None:
    good = preparation(complete=False, done=True, percent=45, seconds_left=12.0)
    check_preparation(good)
    with pytest.raises(ReplyError, match=re.escape(message)):
        check_preparation({**good, **change})


def test_a_delta_of_nobody_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ReplyError, match="a delta of nobody"):
        check_train(DELTA, {**_train(), "users": 0}, LIKE, tiny(), evaluated=False)


@pytest.mark.parametrize("name", sorted(EVALUATION_METRICS - {"eval-users"}))
def test_no_sum_exceeds_one_per_user(tiny: Tiny, name: str) -> None:
    with pytest.raises(ReplyError, match=f"'{name}' exceeds"):
        check_evaluation({**_evaluation(), name: 4.1})
    with pytest.raises(ReplyError, match=f"'{name}' exceeds"):
        check_train(DELTA, {**_train(), **_evaluation(), name: 4.1}, LIKE, tiny(), evaluated=True)


def test_the_delta_is_checked_as_well(tiny: Tiny) -> None:
    with pytest.raises(ReplyError, match="lacks 'w'"):
        check_train({}, _train(), LIKE, tiny(), evaluated=False)
    with pytest.raises(ReplyError, match="dtype float32, expected float16"):
        check_train(DELTA, _train(), LIKE, tiny(delta_codec="float16"), evaluated=False)
    with pytest.raises(ReplyError, match="max-delta-norm = 2"):
        check_train(DELTA, _train(), LIKE, tiny(max_delta_norm=2.0), evaluated=False)
