"""Nearness of titles, and its part in rankings, against slow references."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from lumos_core.data import Catalog, Sequences
from lumos_core.data.splits import LeaveOneOut
from lumos_core.learning.evaluation import best_weight, encoder_scores, evaluate, ranks_by_weight
from lumos_core.learning.model import new_model
from lumos_core.learning.title_nearness import (
    HALF_LIFE,
    TitleNearness,
    fused,
    fused_by_weight,
)

KITCHEN = Catalog(
    ("a", "b", "c", "d", "e"),
    ("blue tea pot", "green tea pot", "paper chain", "long paper chain", "cake tin"),
)


def test_near_is_the_recency_weighted_cosine() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 4)).astype("f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    histories = [np.array([1, 2, 5]), np.array([6])]
    expected = np.zeros((2, 6))
    for row, history in enumerate(histories):
        weights = [0.5 ** ((len(history) - 1 - at) / HALF_LIFE) for at in range(len(history))]
        for item in range(6):
            cosines = [vectors[i - 1] @ vectors[item] for i in history]
            expected[row, item] = np.dot(weights, cosines) / sum(weights)
    found = TitleNearness(torch.from_numpy(vectors)).near(histories)
    assert found.numpy() == pytest.approx(expected, abs=1e-6)


def test_similar_titles_are_near() -> None:
    near = TitleNearness.of(KITCHEN).near([np.array([1])])[0]
    assert near.argsort(descending=True)[:2].tolist() == [0, 1]


def test_vectors_are_computed_once_per_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path))
    first = TitleNearness.of(KITCHEN).vectors

    def forbidden(*_: object) -> None:
        raise AssertionError("computed a second time")

    monkeypatch.setattr(TfidfVectorizer, "fit_transform", forbidden)
    assert torch.equal(TitleNearness.of(KITCHEN).vectors, first)
    with pytest.raises(AssertionError):  # another catalog has other vectors
        TitleNearness.of(Catalog(("a", "b"), ("x y", "z")))


def test_a_cache_that_cannot_be_written_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "cache"))
    expected = TitleNearness.of(KITCHEN).vectors
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "file"))
    assert torch.equal(TitleNearness.of(KITCHEN).vectors, expected)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 5.0))
def test_fusion_does_not_depend_on_the_scale_of_either_part(seed: int, weight: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores, near = torch.randn(3, 20, generator=rng), torch.randn(3, 20, generator=rng)
    found = fused(scores, near, weight)
    assert torch.allclose(found, fused(scores * 7 + 3, near * 0.01 - 1, weight), atol=1e-3)


def test_many_weights_give_what_each_gives_alone() -> None:
    scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    near = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    weights = (0.4, 0.0, 2.0)
    found = list(fused_by_weight(scores, near, weights))
    for weight, one in zip(weights, found, strict=True):
        assert torch.equal(one, fused(scores, near, weight))
    (plain,) = fused_by_weight(scores, near, (0.0,))
    assert plain is scores


def test_parts_that_say_nothing_count_nothing() -> None:
    scores, alike = torch.randn(2, 9), torch.full((2, 9), 0.3)
    order = fused(scores, alike, 0.8).argsort(dim=1)
    assert torch.equal(order, scores.argsort(dim=1))
    assert torch.isfinite(fused(alike, alike, 0.8)).all()


def test_ranks_by_weight_equal_a_loop(tiny, toy_catalog, toy_users) -> None:
    users: Sequences = toy_users(30)
    model = new_model(tiny(dropout=0.5), len(toy_catalog))
    titles = TitleNearness.of(toy_catalog)
    histories, targets = LeaveOneOut(users).validation()
    weights = (0.0, 0.2, 0.8)
    found = ranks_by_weight(model, histories, targets, titles, weights)
    model.eval()
    for row, weight in zip(found, weights, strict=True):
        for user in range(len(histories)):
            with torch.no_grad():
                encoded = encoder_scores(model, [histories[user]])
            scores = fused(encoded, titles.near([histories[user]]), weight)[0]
            others = set(range(1, 25)) - set(histories[user].tolist()) - {int(targets[user])}
            own = scores[targets[user] - 1]
            rest = scores[torch.tensor(sorted(others)) - 1]
            expected = 1 + float((rest > own).sum()) + float((rest == own).sum()) / 2
            assert row[user] == expected
    assert not np.array_equal(found[0], found[2])


def test_the_best_weight_is_chosen_by_ndcg(tiny, toy_catalog, toy_users) -> None:
    model = new_model(tiny(), len(toy_catalog))
    titles = TitleNearness.of(toy_catalog)
    found = evaluate(model, *LeaveOneOut(toy_users(30)).validation(), titles, (0.0, 0.4))
    best = max(found.values(), key=lambda sums: sums["ndcg@20"])
    assert found[best_weight(found)] == best
    assert best_weight({0.0: {"ndcg@20": 1.0}, 0.1: {"ndcg@20": 1.0}}) == 0.0
