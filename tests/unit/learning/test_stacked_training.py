"""Clients that train together compute what each of them computes alone."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumos_core.config import RunConfig
from lumos_core.data.sequences import Sequences
from lumos_core.learning import stacked_training
from lumos_core.learning.model import build_model, get_params, new_model, set_params
from lumos_core.learning.parameters import ITEM_TABLE, ModelShape, Params
from lumos_core.learning.stacked_training import StackedTrainer, Trained
from lumos_core.learning.training import Trainer, TrainingSet, TrainSums
from lumos_core.views.view import UserViews

Tiny = Callable[..., RunConfig]
ITEMS = 40
LENGTHS = (1, 1, 2, 2, 3, 5, 8, 9, 10, 11, 15, 30)
"""Of training histories: without an example, with one, and longer than ``max-len``, which is 10."""


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """In float32 some gradients are rounding errors alone (that of the attention's key bias, for
    one, is 0), and Adam makes whole steps of them. In float64 they are below Adam's epsilon."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def _histories(seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    return Sequences.from_lists([rng.integers(1, ITEMS + 1, size=n).tolist() for n in LENGTHS])


def _views(train: Sequences) -> dict[int, UserViews]:
    """Of some users; of one of them, without a future."""
    rng = np.random.default_rng(1)

    def some(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, ITEMS + 1, size=n).tolist())

    views = {u: UserViews(some(5), some(len(train[u])), some(4)) for u in range(1, len(train), 2)}
    return {**views, 9: views[9]._replace(future=())}


def _seeds(clients: int) -> list[tuple[int, ...]]:
    return [(0, 3, 1000 + client) for client in range(clients)]


def _alone(
    config: RunConfig, start: Params, train: Sequences, views: dict[int, UserViews]
) -> list[tuple[Params, TrainSums]]:
    """Delta and sums of every client by the Trainer of a node."""
    found = []
    for client, seed in enumerate(_seeds(len(train))):
        model = build_model(ModelShape.of(config, ITEMS), config.dropout)
        set_params(model, start)
        own = {0: views[client]} if client in views else None
        data = TrainingSet.build(train.subset([client]), config.max_len, own)
        trainer, sums = Trainer(model, data, config, seed), TrainSums()
        for _ in range(config.local_epochs):
            sums.add(trainer.epoch())
        local = get_params(model)
        found.append(({name: local[name] - start[name] for name in start}, sums))
    return found


def _together(
    config: RunConfig,
    start: Params,
    train: Sequences,
    views: dict[int, UserViews],
    chunk_bytes: int = stacked_training.CHUNK_BYTES,
) -> list[Trained]:
    trainer = StackedTrainer(config, ITEMS, chunk_bytes)
    found = list(trainer.train(start, train, views, _seeds(len(train))))
    return sorted(found, key=lambda trained: trained.client)


def _config(tiny: Tiny, **changes: Any) -> RunConfig:
    base: dict[str, Any] = {
        "method": "lumos", "layers": 2, "dim": 16, "local_epochs": 3, "dropout": 0.3,
        "num_negatives": 30, "contrastive_weight": 0.3,
    }  # fmt: skip
    return tiny(**{**base, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.0},
        {"method": "fedavg"},
        {"method": "fedavg", "loss": "sampled"},
        {"method": "fedavg-plus"},
        {"method": "fedavg-plus", "loss": "sampled"},
        {"view_target_weight": 0.4},
        {"view_target_weight": 0.4, "loss": "sampled"},
        {"view_target_weight": 0.4, "contrastive_weight": 0.0},
        {"item_rows": "all", "view_target_weight": 0.4},
        {"item_rows": "all", "view_target_weight": 0.4, "loss": "sampled"},
        {"item_bias": "learned"},
        {"use_future": False},
        {"use_paraphrase": False, "use_counterfactual": False},
        {"encoder": "ligr"},
        {"encoder": "bag"},
        {"grad_clip": 0.05},
        {"weight_decay": 0.1, "encoder": "bag"},
        {"weight_decay": 0.1, "encoder": "bag", "item_bias": "learned", "item_rows": "all"},
        {
            "weight_decay": 0.1,
            "encoder": "bag",
            "item_bias": "learned",
            "item_rows": "all",
            "loss": "sampled",
        },
        {"local_epochs": 1},
    ],
    ids=str,
)
def test_a_client_moves_as_it_would_alone(tiny: Tiny, changes: dict[str, Any]) -> None:
    config = _config(tiny, **changes)
    start, train = get_params(new_model(config, ITEMS)), _histories()
    views = _views(train) if config.has_views else {}
    alone = _alone(config, start, train, views)
    together = _together(config, start, train, views)
    assert [trained.client for trained in together] == list(range(len(train)))
    for (delta, sums), trained in zip(alone, together, strict=True):
        assert list(trained.delta) == list(delta)
        for name, expected in delta.items():
            assert trained.delta[name].dtype == np.float32
            np.testing.assert_allclose(trained.delta[name], expected, atol=2e-6, err_msg=name)
        found = trained.sums
        assert (found.users, found.examples) == (sums.users, sums.examples)
        assert found.contrastive_users == sums.contrastive_users
        assert found.loss == pytest.approx(sums.loss, abs=1e-6)
        assert found.contrastive == pytest.approx(sums.contrastive, abs=1e-6)
    moved = [any(array.any() for array in trained.delta.values()) for trained in together]
    assert sum(moved) >= len(train) - 2, "all but those with a single item and no views"


def test_only_rows_of_items_that_a_client_met_move(tiny: Tiny) -> None:
    config = _config(tiny)
    train = _histories()
    start = get_params(new_model(config, ITEMS))
    for trained in _together(config, start, train, _views(train)):
        met = np.unique(train[trained.client][-config.max_len :])
        assert trained.rows is not None
        assert trained.rows.tolist() == met.tolist()
        assert len(trained.arrays[ITEM_TABLE]) == len(met)
        rows = np.flatnonzero(trained.delta[ITEM_TABLE].any(axis=1))
        assert set(rows) <= set(met.tolist())
        assert len(rows) or len(train[trained.client]) == 1


def test_a_client_that_met_the_whole_catalog(tiny: Tiny) -> None:
    """Then no row of the global table is left in the softmax."""
    config = _config(tiny, method="fedavg-plus", max_len=50)
    everything = np.random.default_rng(0).permutation(ITEMS) + 1
    train = Sequences.from_lists([everything.tolist(), [1, 2, 3]])
    start = get_params(new_model(config, ITEMS))
    alone = _alone(config, start, train, {})
    for (delta, _), trained in zip(alone, _together(config, start, train, {}), strict=True):
        for name, expected in delta.items():
            np.testing.assert_allclose(trained.delta[name], expected, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("item_rows", ["met", "all"])
@pytest.mark.parametrize("chunk_bytes", [1, 200_000, 600_000])
def test_chunks_change_nothing(tiny: Tiny, chunk_bytes: int, item_rows: str) -> None:
    config = _config(tiny, item_rows=item_rows)
    start, train = get_params(new_model(config, ITEMS)), _histories()
    whole = _together(config, start, train, _views(train))
    parts = _together(config, start, train, _views(train), chunk_bytes)
    for one, other in zip(whole, parts, strict=True):
        assert one.client == other.client
        assert one.sums.loss == pytest.approx(other.sums.loss, abs=1e-6)
        for name, expected in one.delta.items():
            np.testing.assert_allclose(other.delta[name], expected, atol=2e-6, err_msg=name)


def test_a_chunk_holds_as_many_clients_as_fit(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    build = TrainingSet.build

    def counting(train: Sequences, *rest: Any) -> TrainingSet:
        sizes.append(len(train))
        return build(train, *rest)

    monkeypatch.setattr(TrainingSet, "build", counting)
    config = _config(tiny, method="fedavg")
    start, train = get_params(new_model(config, ITEMS)), _histories()
    counts = []
    for chunk_bytes in (1, 10**6, 10**9):
        sizes.clear()
        _together(config, start, train, {}, chunk_bytes)
        assert sum(sizes) == len(train)
        counts.append(len(sizes))
    assert counts[0] == len(train), "a client that needs more than the bound trains alone"
    assert counts[0] > counts[1] > counts[2] == 2, "without and with examples"


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=25),
    chunk_bytes=st.integers(1, 20_000_000),
    having=st.integers(1, 4),
)
def test_every_client_is_in_one_chunk_of_its_kind(
    lengths: list[int], chunk_bytes: int, having: int
) -> None:
    config = RunConfig(method="lumos", dim=16, max_len=10)
    train = Sequences.from_lists([[1] * length for length in lengths])
    view = UserViews((1,), (2,), (3,))
    views = {u: view for u in range(len(lengths)) if u % having == 0}
    chunks = list(StackedTrainer(config, ITEMS, chunk_bytes)._chunks(train, views))
    together = [client for _, clients in chunks for client in clients.tolist()]
    assert sorted(together) == list(range(len(lengths)))
    for kind, clients in chunks:
        assert {lengths[c] > 1 for c in clients} == {kind.examples}
        assert {c in views for c in clients} == {kind.views}
        found = [lengths[c] for c in clients]
        assert sorted(found, reverse=True) == found, "the longest first"


def test_the_received_parameters_are_left_as_they_are(tiny: Tiny) -> None:
    config = _config(tiny)
    start, train = get_params(new_model(config, ITEMS)), _histories()
    before = {name: array.copy() for name, array in start.items()}
    _together(config, start, train, _views(train))
    for name, array in before.items():
        np.testing.assert_array_equal(start[name], array)


@pytest.mark.parametrize("method", ["fedavg", "lumos"])
def test_threads_change_nothing(tiny: Tiny, method: str) -> None:
    config = _config(tiny, method=method)
    start, train = get_params(new_model(config, ITEMS)), _histories()
    views = _views(train) if config.has_views else {}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = _together(config, start, train, views)
        torch.set_num_threads(3)
        threads = _together(config, start, train, views)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, threads, strict=True):
        assert one.client == other.client
        for name, expected in one.delta.items():
            np.testing.assert_allclose(other.delta[name], expected, atol=2e-6, err_msg=name)
