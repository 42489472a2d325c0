"""Full ranking against a slow loop over users and items."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lumos_core.config import RunConfig
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut
from lumos_core.learning import evaluation
from lumos_core.learning.evaluation import evaluate, target_ranks, user_ranks
from lumos_core.learning.metrics import means, ranking_sums
from lumos_core.learning.model import SASRec, new_model

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]
ITEMS = 24


def _slow_rank(scores: list[float], history: list[int], target: int) -> float:
    """1 + better ones + half of the equal ones, among the unmet items and the target."""
    own = scores[target - 1]
    rank = 1.0
    for item in range(1, len(scores) + 1):
        if item == target or item in history:
            continue
        rank += 1.0 if scores[item - 1] > own else 0.5 if scores[item - 1] == own else 0.0
    return rank


def _ranks(
    scores: list[list[float]], histories: list[list[int]], targets: list[int]
) -> list[float]:
    table = torch.tensor(scores)
    found = target_ranks(
        lambda users: table[torch.from_numpy(users)],
        Sequences.from_lists(histories),
        np.array(targets),
    )
    return found.tolist()


@pytest.fixture
def model(tiny: Tiny) -> SASRec:
    found = new_model(tiny(dropout=0.5), ITEMS)
    with torch.no_grad():
        found.items.weight[1:] += torch.randn(
            ITEMS, found.shape.dim, generator=torch.Generator().manual_seed(0)
        )
    return found


def test_ranks_by_hand() -> None:
    scores = [0.9, 0.8, 0.7, 0.6, 0.5]
    assert _ranks([scores], [[3]], [1]) == [1.0]
    assert _ranks([scores], [[3]], [5]) == [4.0]  # item 3 does not compete
    assert _ranks([scores], [[1, 2, 3, 4]], [5]) == [1.0]
    assert _ranks([scores], [[5, 1, 5]], [5]) == [4.0]  # bought before: still a candidate itself
    assert _ranks([scores, scores], [[], [1]], [2, 2]) == [2.0, 1.0]


def test_ties_count_half() -> None:
    assert _ranks([[0.0] * 5], [[]], [2]) == [3.0]  # the middle of five, wherever it stands
    assert _ranks([[1.0, 0.5, 0.5, 0.5, 0.0]], [[3]], [2]) == [2.5]


def test_a_score_that_is_no_number_is_the_lowest() -> None:
    nan = math.nan
    assert _ranks([[0.1, nan, 0.2, 0.3, 0.4]], [[]], [2]) == [5.0]
    assert _ranks([[nan, 0.1, nan, 0.3, nan]], [[]], [2]) == [2.0]
    diverged = _ranks([[nan] * 101], [[1, 2, 3]], [50])[0]
    assert diverged >= 50, "a model that answers NaN must not pass for a good one"
    assert _ranks([[0.0, -math.inf, 0.1]], [[1]], [2]) == [2.5]  # an item bought counts as a tie


def test_target_ranks_leave_the_callers_scores_alone() -> None:
    scores = torch.rand(2, 6)
    before = scores.clone()
    target_ranks(lambda users: scores, Sequences.from_lists([[1, 2], [3]]), np.array([4, 5]))
    assert torch.equal(scores, before)


def test_evaluate_equals_a_loop_over_users(model: SASRec, toy_users: Users) -> None:
    """Histories longer than max-len, repeated items and targets bought before are among them."""
    users = toy_users(40, longest=20)
    histories, targets = LeaveOneOut(users).test()
    assert any(t in h.tolist() for h, t in zip(histories, targets, strict=True))
    assert max(map(len, histories)) > model.shape.max_len
    expected = {"users": 40.0, "mrr": 0.0}
    model.eval()
    for history, target in zip(histories, targets.tolist(), strict=True):
        items = history.tolist()
        recent = torch.tensor([items[-model.shape.max_len :]])
        with torch.no_grad():
            scores = model.scores(model(recent)[0, -1]).tolist()
        rank = _slow_rank(scores, items, target)
        expected["mrr"] += 1 / rank
        for k in (5, 10, 20):
            gain = 1 / math.log2(1 + rank) if rank <= k else 0.0
            expected[f"hr@{k}"] = expected.get(f"hr@{k}", 0.0) + (rank <= k)
            expected[f"ndcg@{k}"] = expected.get(f"ndcg@{k}", 0.0) + gain
    found = evaluate(model, histories, targets)[0.0]
    assert found == pytest.approx(expected, rel=1e-6)
    assert 0 < found["hr@5"] < 40


def test_batches_do_not_change_the_result(
    model: SASRec, toy_users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories, targets = LeaveOneOut(toy_users(40)).validation()
    whole = evaluate(model, histories, targets)[0.0]
    for size in (1, 7):
        monkeypatch.setattr(evaluation, "EVALUATION_BATCH", size)
        assert evaluate(model, histories, targets)[0.0] == pytest.approx(whole, rel=1e-9)


def test_with_many_items_fewer_users_are_ranked_at_a_time(
    tiny: Tiny, toy_users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model(tiny(), ITEMS)
    histories, targets = LeaveOneOut(toy_users(30)).test()
    at_once = user_ranks(model, histories, targets)
    sizes: list[int] = []
    scores = evaluation.encoder_scores

    def seen(model: SASRec, chosen: list[np.ndarray]) -> torch.Tensor:
        sizes.append(len(chosen))
        return scores(model, chosen)

    monkeypatch.setattr(evaluation, "encoder_scores", seen)
    monkeypatch.setattr(evaluation, "BLOCK_SCORES", 7 * ITEMS + 1)
    assert user_ranks(model, histories, targets).tolist() == at_once.tolist()
    assert sizes == [7, 7, 7, 7, 2]
    monkeypatch.setattr(evaluation, "BLOCK_SCORES", 1)
    assert evaluation.batch_users(ITEMS) == 1


def test_sums_add_up_over_nodes(model: SASRec, toy_users: Users) -> None:
    users = toy_users(30)
    histories, targets = LeaveOneOut(users).test()
    whole = evaluate(model, histories, targets)[0.0]
    total: dict[str, float] = {}
    for part in (range(0, 1), range(1, 18), range(18, 30)):
        chosen = np.array(part)
        for name, value in evaluate(model, histories.subset(chosen), targets[chosen])[0.0].items():
            total[name] = total.get(name, 0.0) + value
    assert total == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_kept_and_dropout_is_off(
    model: SASRec, toy_users: Users, training: bool
) -> None:
    histories, targets = LeaveOneOut(toy_users(10)).test()
    model.train(training)
    assert evaluate(model, histories, targets)[0.0] == evaluate(model, histories, targets)[0.0]
    assert model.training is training


def test_the_mode_is_kept_when_evaluation_fails(model: SASRec) -> None:
    model.train()
    with pytest.raises(IndexError):
        evaluate(model, Sequences.from_lists([[ITEMS + 1]]), np.array([1]))
    assert model.training


def test_ranking_sums_by_hand() -> None:
    sums = ranking_sums(np.array([1.0, 5.0, 5.5, 20.0, 21.0]))
    assert sums["users"] == 5
    assert (sums["hr@5"], sums["hr@10"], sums["hr@20"]) == (2, 3, 4)
    assert sums["ndcg@5"] == pytest.approx(1 + 1 / math.log2(6))
    assert sums["ndcg@20"] == pytest.approx(
        1 + 1 / math.log2(6) + 1 / math.log2(6.5) + 1 / math.log2(21)
    )
    assert sums["mrr"] == pytest.approx(1 + 1 / 5 + 1 / 5.5 + 1 / 20 + 1 / 21)


def test_means_of_sums() -> None:
    assert means({"users": 4.0, "hr@20": 1.0, "mrr": 2.0}) == {"hr@20": 0.25, "mrr": 0.5}
    assert means({}) == {}
    assert means(ranking_sums(np.array([]))) == {}


def test_evaluation_is_the_sums_of_the_users_ranks(tiny: Tiny, toy_users: Users) -> None:
    model = new_model(tiny(), ITEMS)
    histories, targets = LeaveOneOut(toy_users(30)).test()
    ranks = user_ranks(model, histories, targets)
    assert evaluate(model, histories, targets)[0.0] == ranking_sums(ranks)
    alone = [user_ranks(model, histories.subset([u]), targets[[u]])[0] for u in range(30)]
    assert ranks.tolist() == alone  # in the order of the users


def test_weights_of_titles_need_titles(model: SASRec, toy_users: Users) -> None:
    """Or the encoder's scores would pass for the nearness of titles."""
    histories, targets = LeaveOneOut(toy_users(3)).test()
    with pytest.raises(ValueError, match=r"weights = \(0.0, 0.4\).*titles"):
        evaluate(model, histories, targets, weights=(0.0, 0.4))
    with pytest.raises(ValueError, match="titles"):
        user_ranks(model, histories, targets, weight=0.4)
    assert evaluate(model, histories, targets, weights=(0.0,)).keys() == {0.0}
