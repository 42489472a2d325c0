"""Defences of others' papers: PIECK's client regularisers and UNION."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.experiments.poisoning import uniformity_filter
from lumos_core.experiments.poisoning.guarded_training import (
    PieckNode,
    PieckTrainer,
    UnionNode,
    UnionTrainer,
)
from lumos_core.experiments.poisoning.guards import GUARDS, NO_GUARD, guard_of
from lumos_core.experiments.poisoning.uniformity_filter import (
    LEFT_OUT,
    FilteringTransport,
    has_two_groups,
    two_groups,
    uneven,
    uniformity,
)
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.learning.model import SASRec, new_model
from lumos_core.learning.parameters import ITEM_TABLE
from lumos_core.learning.title_start import initial_params
from lumos_core.learning.training import Trainer, TrainingSet
from lumos_core.wire.messages import Instruction

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]


def _trainer(kind: type[Trainer], config: RunConfig, users: Sequences) -> Trainer:
    model = new_model(config, 24)
    data = TrainingSet.build(users.without_last(2), config.max_len)
    return kind(model, data, config, (0,))


def _descend(trainer: Trainer, steps: int) -> tuple[float, float]:
    """The regulariser before and after descending along it alone."""
    model: SASRec = trainer.model
    model.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    users = np.arange(len(trainer.data))
    values = []
    for _ in range(steps):
        torch.manual_seed(0)  # the same draws in every step
        items, lengths = trainer.data.history.rows(users, torch.device("cpu"))
        loss = trainer.regulariser(items, lengths, model(items))
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(float(loss.detach()))
    return values[0], values[-1]


def test_piecks_regularisers_make_popular_items_ordinary(tiny: Tiny, toy_users: Users) -> None:
    trainer = _trainer(PieckTrainer, tiny(), toy_users(20, shortest=6))
    assert isinstance(trainer, PieckTrainer)
    items, lengths = trainer.data.history.rows(np.arange(20), torch.device("cpu"))
    assert trainer.regulariser(items, lengths, trainer.model(items)) is None, "round one"
    trainer.popular = torch.tensor([1, 2, 3])
    trainer.received = trainer.model.items.weight.detach().clone()

    def nearness() -> float:
        table = F.normalize(trainer.model.items.weight.detach(), dim=-1)
        assert trainer.received is not None
        known = F.normalize(trainer.received[[1, 2, 3]], dim=-1)
        return float((known @ table[4:].T).mean())

    before = nearness()
    popular = trainer.model.items.weight[1:4].detach().clone()
    first, last = _descend(trainer, 20)
    assert last < first
    assert nearness() > before + 0.1
    moved = (trainer.model.items.weight[1:4].detach() - popular).norm()
    others = (trainer.model.items.weight[4:].detach() - trainer.received[4:]).norm()
    assert moved < others


def test_unions_task_spreads_items_that_do_not_come_together(tiny: Tiny, toy_users: Users) -> None:
    trainer = _trainer(UnionTrainer, tiny(), toy_users(20, shortest=6))
    with torch.no_grad():
        trainer.model.items.weight[1:] += 1.0  # all in one direction
    before = uniformity(trainer.model.items.weight[1:].detach().numpy())
    first, last = _descend(trainer, 30)
    assert last < first
    assert uniformity(trainer.model.items.weight[1:].detach().numpy()) > before


@pytest.mark.parametrize("kind", [PieckNode, UnionNode])
def test_guarded_nodes_train_otherwise_and_their_sums_are_comparable(
    kind: type[Node], tiny: Tiny, toy_catalog: Catalog, toy_users: Users
) -> None:
    config = tiny()
    params = initial_params(config, toy_catalog)
    plain = Node("n", toy_catalog, toy_users(8, shortest=6), config)
    guarded = kind("n", toy_catalog, toy_users(8, shortest=6), config)
    for round in (1, 2):
        one, facts = plain.train(params, round)
        two, told = guarded.train(params, round)
        assert facts.keys() == told.keys()
        params = {n: a + one[n] for n, a in params.items()}
    assert not np.array_equal(one[ITEM_TABLE], two[ITEM_TABLE])
    again = guarded.train(params, 3)[0]
    assert np.isfinite(again[ITEM_TABLE]).all()


# ---------------------------------------------------------------- UNION's filter
def test_numbers_are_split_where_they_lie_apart() -> None:
    rng = np.random.default_rng(0)
    apart = np.array([0.1, 0.11, 0.12, 0.9, 0.91, 0.92, 0.93, 0.94])
    assert two_groups(apart) == 3
    assert has_two_groups(apart, rng)
    assert not has_two_groups(np.full(8, 0.4), rng)
    together = [has_two_groups(rng.random(20), rng) for _ in range(20)]
    assert sum(together) <= 6


def test_uniformity_is_the_mean_distance() -> None:
    assert uniformity(np.ones((5, 3))) == pytest.approx(0.0, abs=1e-6)
    assert uniformity(np.eye(4)) == pytest.approx(np.sqrt(2))


def test_deltas_that_collapse_the_items_are_left_out() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(61, 8))
    table[0] = 0.0
    honest = [rng.normal(size=table.shape) * 0.01 for _ in range(8)]
    collapsing = [np.full_like(table, 2.0) - table for _ in range(2)]
    broken = np.full_like(table, np.nan)
    found = uneven({ITEM_TABLE: table}, [*honest, *collapsing, broken], rng)
    assert found.tolist() == [False] * 8 + [True] * 2 + [False]
    assert not uneven({ITEM_TABLE: table}, honest[:2], rng).any()


def test_the_transport_reports_them_as_failed(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    nodes = [Node(f"n{i}", toy_catalog, toy_users(4, seed=i), config) for i in range(4)]
    params = initial_params(config, toy_catalog)
    asked = [Instruction(n.name, "train", 1, params) for n in nodes]
    monkeypatch.setattr(
        uniformity_filter, "uneven", lambda *_: np.array([False, True, False, False])
    )
    replies = FilteringTransport(nodes, config).exchange(asked, 1.0)
    assert [r.error for r in replies] == [None, LEFT_OUT, None, None]
    assert [r.arrays is None for r in replies] == [False, True, False, False]
    described = FilteringTransport(nodes, config).exchange([Instruction("n0", "describe")], 1.0)
    assert described[0].info["name"] == "n0"


def test_guards_belong_to_defences_by_name() -> None:
    assert guard_of("fedavg") is guard_of("lumos:default") is NO_GUARD
    assert guard_of("fedavg-plus:pieck") is GUARDS["pieck"]
    config = RunConfig()
    assert type(NO_GUARD.transport([], config)) is InProcessTransport
    assert type(GUARDS["union"].transport([], config)) is FilteringTransport
    assert type(GUARDS["pieck"].transport([], config)) is InProcessTransport
