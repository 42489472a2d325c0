"""Popularity against counting by hand; centralised training with early stopping."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut
from lumos_core.learning import baselines
from lumos_core.learning.baselines import popularity, train_centralised
from lumos_core.learning.evaluation import evaluate
from lumos_core.learning.metrics import means
from lumos_core.learning.model import SASRec, get_params, new_model, set_params
from lumos_core.learning.parameters import Params

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]
ITEMS = 24


def test_popularity_equals_counting(toy_users: Users) -> None:
    users = toy_users(60)
    counts: Counter[int] = Counter()
    for history in users:
        counts.update(history[:-2].tolist())
    expected = {"hr@5": 0.0, "ndcg@5": 0.0, "hr@10": 0.0, "ndcg@10": 0.0, "hr@20": 0.0,
                "ndcg@20": 0.0, "mrr": 0.0}  # fmt: skip
    for history in users:
        *seen, target = history.tolist()
        rivals = [i for i in range(1, ITEMS + 1) if i != target and i not in seen]
        rank = 1 + sum(
            1.0 if counts[i] > counts[target] else 0.5 if counts[i] == counts[target] else 0.0
            for i in rivals
        )
        expected["mrr"] += 1 / rank / 60
        for k in (5, 10, 20):
            expected[f"hr@{k}"] += (rank <= k) / 60
            expected[f"ndcg@{k}"] += (rank <= k) / math.log2(1 + rank) / 60
    assert popularity(users, ITEMS) == pytest.approx(expected)


def test_popularity_counts_no_held_out_item() -> None:
    """Item 9 is only ever a validation or test item: nobody has bought it in training."""
    users = Sequences.from_lists([[1, 9, 9]] * 5 + [[2, 3, 9]])
    found = popularity(users, 10)
    first = 1 + 1 + 7 / 2  # item 1 is met; item 2 is ahead; seven have a count of 0 as well
    last = 1 + 1 + 6 / 2  # items 2 and 3 are met; item 1 is ahead
    assert found["mrr"] == pytest.approx((5 / first + 1 / last) / 6)


@pytest.fixture
def users(toy_users: Users) -> Sequences:
    return toy_users(40, shortest=5)


def _start(config: RunConfig) -> Params:
    return get_params(new_model(config, ITEMS))


def test_centralised_training_beats_popularity(tiny: Tiny, users: Sequences) -> None:
    config = tiny(dim=16, dropout=0.0, learning_rate=0.02)
    _, found = train_centralised(config, users, _start(config), max_epochs=30, patience=30)
    assert found["test"]["ndcg@20"] > 1.3 * popularity(users, ITEMS)["ndcg@20"]


def test_centralised_training_is_determined_by_its_seed(tiny: Tiny, users: Sequences) -> None:
    config = tiny(dropout=0.3)
    first, facts = train_centralised(config, users, _start(config), max_epochs=3)
    again, same = train_centralised(config, users, _start(config), max_epochs=3)
    assert all(np.array_equal(first[n], again[n]) for n in first)
    assert facts["validation"] == same["validation"]
    assert facts["test"] == same["test"]


def test_the_objective_of_the_method_plays_no_part(tiny: Tiny, users: Sequences) -> None:
    start = _start(tiny())
    same: dict[str, Any] = {"item_bias": "none", "title_weight": 0.0}
    found = [
        train_centralised(tiny(method=m, **same), users, start, max_epochs=2)[0]
        for m in ("fedavg", "confedsrs", "fedavg-plus", "lumos")
    ]

    def equal(one: Params, other: Params) -> bool:
        return all(np.array_equal(one[n], other[n]) for n in start)

    assert equal(found[0], found[1])
    assert equal(found[2], found[3])
    assert not equal(found[0], found[2]), "which rows are trained is not a matter of the objective"


def test_the_best_epoch_is_returned_and_patience_stops(
    tiny: Tiny, users: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation values are dictated; parameters must be those after the second epoch."""
    config = tiny()
    scripted = iter([0.1, 0.5, 0.2, 0.5, 0.3, 0.9])  # an equal value is not a better one
    after: list[Params] = []
    split = LeaveOneOut(users)

    def dictated(
        model: SASRec, histories: Sequences, targets: np.ndarray, *titles: object
    ) -> dict[float, dict[str, float]]:
        found = evaluate(model, histories, targets)
        if np.array_equal(targets, split.validation()[1]):
            after.append(get_params(model))
            sums = found[0.0]
            return {0.0: {**sums, "ndcg@20": next(scripted) * sums["users"]}}
        return found

    monkeypatch.setattr(baselines, "evaluate", dictated)
    epochs: list[dict[str, Any]] = []
    params, facts = train_centralised(
        config, users, _start(config), max_epochs=6, patience=3, on_epoch=epochs.append
    )
    assert (facts["epochs"], facts["best_epoch"]) == (5, 2)
    assert [e["epoch"] for e in epochs] == [1, 2, 3, 4, 5]
    assert all(np.array_equal(params[n], after[1][n]) for n in params)
    assert facts["validation"]["ndcg@20"] == pytest.approx(0.5)
    model = new_model(config, ITEMS)
    set_params(model, params)
    assert facts["test"] == pytest.approx(means(evaluate(model, *split.test())[0.0]))


def test_max_epochs_is_kept(tiny: Tiny, users: Sequences) -> None:
    config = tiny()
    _, facts = train_centralised(config, users, _start(config), max_epochs=2, patience=50)
    assert facts["epochs"] == 2
    assert facts["seconds"] > 0


def test_the_callers_start_is_left_alone(tiny: Tiny, users: Sequences) -> None:
    config = tiny()
    start = _start(config)
    before = {n: a.copy() for n, a in start.items()}
    train_centralised(config, users, start, max_epochs=1)
    assert all(np.array_equal(start[n], before[n]) for n in start)


def test_a_diverged_model_is_never_the_best(tiny: Tiny, users: Sequences) -> None:
    """Once the weights are NaN every comparison with the target's score is false."""
    config = tiny(learning_rate=1e30, dropout=0.0)
    params, facts = train_centralised(config, users, _start(config), max_epochs=4, patience=10)
    assert facts["validation"]["ndcg@20"] < 0.5
    assert facts["test"]["hr@5"] < 0.8
    assert facts["test"]["mrr"] <= 1
    assert params
