"""Recommendations against slow references."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lumos_core.data import Catalog
from lumos_core.learning.model import SASRec
from lumos_core.learning.parameters import ModelShape
from lumos_core.recommend.recommender import Recommender, top_columns

ITEMS = 9
CATALOG = Catalog(
    tuple(f"i{n}" for n in range(1, ITEMS + 1)), tuple(f"thing {n}" for n in range(1, ITEMS + 1))
)
histories = st.lists(
    st.lists(st.integers(1, ITEMS), min_size=1, max_size=14), min_size=1, max_size=5
)


def small_model(seed: int) -> SASRec:
    torch.manual_seed(seed)
    model = SASRec(ModelShape(ITEMS, dim=4, layers=1, heads=2, max_len=6)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)  # far from alike, so that float error does not decide
    return model


@given(
    values=arrays.arrays(
        np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]),
    ),
    share=st.floats(0, 1),
)  # fmt: skip
def test_ties_go_to_the_lower_column(values: np.ndarray, share: float) -> None:
    k = round(share * values.shape[1])
    best, columns = top_columns(torch.from_numpy(values), k)
    expected = np.argsort(-values, axis=1, kind="stable")[:, :k]
    assert np.array_equal(columns.numpy(), expected)
    assert np.array_equal(best.numpy(), np.take_along_axis(values, expected, axis=1))


@given(users=histories, top=st.integers(1, 12), include=st.booleans(), seed=st.integers(0, 3))
def test_ranking_is_that_of_a_slow_reference(
    users: list[list[int]], top: int, include: bool, seed: int
) -> None:
    model = small_model(seed)
    ranked = Recommender(model, CATALOG, top=top, include_seen=include).rank(users)
    for row, history in enumerate(users):
        with torch.inference_mode():
            hidden = model(torch.tensor([history[-6:]]))[0, -1]
            scores = [float(hidden @ model.items.weight[i]) for i in range(1, ITEMS + 1)]
        allowed = [i for i in range(1, ITEMS + 1) if include or i not in history]
        expected = sorted(allowed, key=lambda i: (-scores[i - 1], i))[:top]
        found = [i for i in ranked.items[row].tolist() if i]
        assert len(found) == len(set(found)) == len(expected)
        assert set(found) <= set(allowed)  # neither padding nor, unless asked, the history
        # float error may swap neighbours, so scores are compared instead of items
        np.testing.assert_allclose(
            [scores[i - 1] for i in found], [scores[i - 1] for i in expected], rtol=1e-4, atol=1e-4
        )
        reported = ranked.scores[row]
        assert (reported[len(found) :] == -np.inf).all()
        assert (np.diff(reported[: len(found)]) <= 0).all()


@given(users=histories, reasons=st.integers(0, 8), seed=st.integers(0, 3))
def test_reasons_are_distinct_items_of_the_history_that_resemble(
    users: list[list[int]], reasons: int, seed: int
) -> None:
    model = small_model(seed)
    ranked = Recommender(model, CATALOG, top=ITEMS, reasons=reasons).rank(users)
    assert ranked.reasons.shape == (len(users), ITEMS, reasons)
    directions = F.normalize(model.items.weight.detach(), dim=-1)
    cosine = (directions @ directions.T).numpy()
    for row, history in enumerate(users):
        read = set(history[-6:])
        for item, near, cosines in zip(
            ranked.items[row], ranked.reasons[row], ranked.similarities[row], strict=True
        ):
            found = [i for i in near.tolist() if i]
            clear = {i for i in read if cosine[item, i] > 1e-5}  # float error decides the others
            alike = {i for i in read if cosine[item, i] > -1e-5}
            assert len(set(found)) == len(found)
            assert len(found) >= (min(reasons, len(clear)) if item else 0)
            assert set(found) <= alike
            assert (cosines[: len(found)] > 0).all()
            assert (np.diff(cosines[: len(found)]) <= 0).all()
