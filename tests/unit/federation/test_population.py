"""A population of one-user clients is what a node for each user would be."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.errors import ConfigError, DataError
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.one_user_clients import client_names
from lumos_core.federation.population import Population, sends_rows
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.learning.parameters import ITEM_TABLE
from lumos_core.learning.title_start import initial_params
from lumos_core.views.view import UserViews, Views, ViewSource, no_views
from lumos_core.wire.codecs import wire_bytes
from lumos_core.wire.messages import Instruction, Transport
from lumos_core.wire.reply_checks import INFO, check_evaluation, check_train

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]
USERS = 20


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """See tests/unit/learning/test_stacked_training.py. Over several rounds, weight decay would
    bring the rounding errors back, so there is none here."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def users(toy_users: Users) -> Sequences:
    """Some have one item to train on, some more than ``max-len``."""
    return toy_users(USERS, shortest=3, longest=16)


def _walking_on(histories: Sequences) -> Views:
    """Views that depend on the history alone; every third item's owner has none."""
    return {
        u: UserViews(
            tuple((h[-1] + k) % 24 + 1 for k in range(2)),
            tuple((i + 1) % 24 + 1 for i in h.tolist()),
            tuple(reversed(h.tolist())),
        )
        for u, h in enumerate(histories)
        if h[0] % 3
    }


def _nodes(
    catalog: Catalog, users: Sequences, config: RunConfig, views: ViewSource
) -> InProcessTransport:
    names = client_names(len(users))
    return InProcessTransport(
        [Node(n, catalog, users.subset([u]), config, views) for u, n in enumerate(names)]
    )


def _federate(config: RunConfig, catalog: Catalog, transport: Transport) -> FederationResult:
    start = initial_params(config, catalog)
    return run_federation(config, transport, catalog.fingerprint, start)


def _config(tiny: Tiny, **changes: Any) -> RunConfig:
    base: dict[str, Any] = {
        "rounds": 3, "fraction": 0.4, "min_nodes": USERS, "local_epochs": 3, "dropout": 0.3,
        "learning_rate": 0.02, "weight_decay": 0.0, "view_timeout": 0.0, "item_bias": "auto",
    }  # fmt: skip
    return tiny(**{**base, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "fedavg"},
        {"method": "fedavg-plus", "fraction": 1.0},
        {"method": "lumos", "dropout": 0.0},
        {"method": "lumos", "evaluate_every": 2, "server_optimizer": "momentum"},
        {"method": "lumos", "loss": "sampled", "num_negatives": 30, "view_target_weight": 0.3},
        {"delta_codec": "top-rows", "error_feedback": True, "fraction": 0.9},
        {"delta_codec": "float16"},
        {"aggregation": "mean", "clip": "none", "weighting": "uniform"},
        {"method": "lumos", "aggregation": "mean", "clip": "none", "weighting": "examples"},
        {"method": "fedavg-plus", "delta_codec": "float16", "error_feedback": True},
        {"method": "lumos", "delta_codec": "top-rows", "clip": "rows"},
        {"method": "lumos", "aggregation": "median", "clip": "norm"},
        {"method": "fedavg-plus", "item_bias": "none", "row_mean": "movers"},
        {"method": "fedavg-plus", "dp": "central", "weighting": "uniform", "dp_noise_seed": 3},
        {"dp": "central", "weighting": "uniform", "dp_noise_seed": 3, "dp_clip": 0.5},
        {"dp": "distributed", "weighting": "uniform", "dp_noise_seed": 3, "dp_clip": 0.5},
    ],
    ids=str,
)
def test_a_run_is_that_of_a_node_for_each_user(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences, changes: dict[str, Any]
) -> None:
    config = _config(tiny, **changes)
    views = _walking_on if config.has_views else no_views
    together = _federate(config, toy_catalog, Population(toy_catalog, users, config, views))
    alone = _federate(config, toy_catalog, _nodes(toy_catalog, users, config, views))
    # a value on the border between two numbers of float16 may be rounded to either
    close = 1e-4 if config.delta_codec == "float16" else 1e-5
    for name, array in alone.params.items():
        np.testing.assert_allclose(together.params[name], array, atol=close, err_msg=name)
    assert together.test == pytest.approx(alone.test, abs=1e-9)
    assert together.validation == pytest.approx(alone.validation, abs=1e-9)
    assert together.title_weight == alone.title_weight
    assert together.best_round == alone.best_round
    for ours, theirs in zip(together.events, alone.events, strict=True):
        assert _plain(ours) == pytest.approx(_plain(theirs), abs=1e-5)
        assert _named(ours) == _named(theirs)


def _plain(event: dict[str, Any]) -> dict[str, float]:
    """The numbers of an event that do not depend on the clock."""
    numbers = {k: v for k, v in event.items() if isinstance(v, int | float)}
    return {k: v for k, v in numbers.items() if not k.endswith("seconds")}


def _named(event: dict[str, Any]) -> dict[str, Any]:
    lists = {k: v for k, v in event.items() if isinstance(v, list)}
    return {k: sorted(map(str, v)) for k, v in lists.items()} | {"event": event["event"]}


@pytest.mark.parametrize("stop_at", [1, 2])
def test_a_stopped_run_is_resumed_to_the_bit(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences, tmp_path: Path, stop_at: int
) -> None:
    config = _config(tiny, method="lumos", delta_codec="int8", server_optimizer="momentum")
    start = initial_params(config, toy_catalog)

    def run(**options: Any) -> FederationResult:
        population = Population(toy_catalog, users, config, _walking_on)
        return run_federation(config, population, toy_catalog.fingerprint, start, **options)

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "round" and event["round"] == stop_at:
            raise KeyboardInterrupt

    straight = run()
    with pytest.raises(KeyboardInterrupt):
        run(run_dir=tmp_path, on_event=stop)
    resumed = run(run_dir=tmp_path, resume=True)
    assert resumed.test == straight.test
    for name, array in straight.params.items():
        np.testing.assert_array_equal(resumed.params[name], array)


def test_rounds_learn(tiny: Tiny, toy_catalog: Catalog, toy_users: Users) -> None:
    """So the equality above is not one of models that do not move."""
    config = _config(tiny, rounds=8, fraction=1.0, dropout=0.0, aggregation="mean", clip="none")
    population = Population(toy_catalog, toy_users(USERS, shortest=8, longest=12), config)
    result = _federate(config, toy_catalog, population)
    curve = [e["ndcg@20"] for e in result.events if e.get("split") == "validation"]
    assert max(curve) > curve[0] + 0.1


def test_every_reply_is_what_the_server_takes(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    config = _config(tiny, method="lumos")
    population = Population(toy_catalog, users, config, _walking_on)
    start = initial_params(config, toy_catalog)
    names = population.nodes()
    assert names == sorted(names) == client_names(USERS)
    for reply in population.exchange([Instruction(n, "describe") for n in names], 1.0):
        assert set(reply.info) == INFO
        assert (reply.info["name"], reply.info["users"]) == (reply.node, "1")
    training = [Instruction(n, "train", 1, start, "validation") for n in names[:4]]
    ranking = [Instruction(n, "evaluate", 0, start, "validation") for n in names[4:]]
    evaluated, *trained = population.exchange([*training, *ranking], 1.0)
    check_evaluation(evaluated.metrics, config.title_weights)
    assert evaluated.sum_of == tuple(names[4:])
    assert evaluated.metrics["eval-users"] == USERS
    assert [reply.node for reply in trained] == names[:4]
    for reply in trained:
        check_train(
            reply.arrays or {}, reply.metrics, start, config, evaluated=True, rows=reply.rows
        )
        assert (reply.metrics["users"], reply.metrics["eval-users"]) == (1, 0)


def test_replies_hold_the_rows_that_a_client_met_and_no_others(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    """Their bytes are those that a node sends: those of the whole table."""
    config = _config(tiny, method="fedavg-plus")
    start = initial_params(config, toy_catalog)
    population = Population(toy_catalog, users, config)
    orders = [Instruction(name, "train", 1, start) for name in population.nodes()]
    for at, reply in enumerate(population.exchange(orders, 1.0)):
        assert reply.arrays is not None
        assert reply.rows is not None
        met = np.unique(users[at][:-2][-config.max_len :])
        assert reply.rows.tolist() == met.tolist()
        assert reply.arrays[ITEM_TABLE].shape == (len(met), config.dim)
        assert reply.bytes_up == wire_bytes(start)


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, True),
        ({"aggregation": "mean", "delta_codec": "float16"}, True),
        ({"item_rows": "all"}, False),
        ({"method": "fedavg"}, False),
        ({"aggregation": "median"}, False),
        ({"aggregation": "sparse-median"}, False),
        ({"delta_codec": "int8"}, False),
        ({"delta_codec": "top-rows"}, False),
        ({"dp": "central", "weighting": "uniform"}, False),
    ],
    ids=str,
)
def test_where_zeros_count_they_are_kept(tiny: Tiny, changes: dict[str, Any], rows: bool) -> None:
    assert sends_rows(_config(tiny, **{"method": "lumos", **changes})) == rows


def test_a_client_says_whether_it_has_views(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    config = _config(tiny, method="lumos")
    asked: list[int] = []

    def views(histories: Sequences) -> Views:
        asked.append(len(histories))
        return {0: _walking_on(histories)[1]}

    population = Population(toy_catalog, users, config, views)
    replies = population.exchange([Instruction(n, "prepare") for n in population.nodes()], 1.0)
    assert [reply.metrics["complete"] for reply in replies] == [1] + [0] * (USERS - 1)
    start = initial_params(config, toy_catalog)
    orders = [Instruction(n, "train", 1, start) for n in population.nodes()[:3]]
    replies = population.exchange(orders, 1.0)
    assert [reply.metrics["views-complete"] for reply in replies] == [1, 0, 0]
    assert asked == [USERS], "the views of all users are asked for once"


def test_what_cannot_train_together_is_refused_by_name(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    with pytest.raises(ConfigError, match="method = confedsrs"):
        Population(toy_catalog, users, _config(tiny, method="confedsrs"))


def test_a_round_that_does_not_fit_into_memory_is_refused(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole tables take more than the rows that clients met; here, what is free is in between."""
    whole = _config(tiny, method="lumos", aggregation="median", clip="none", fraction=1.0)
    rows = whole.replace(aggregation="mean")
    free = sum(
        Population(toy_catalog, users, config)._memory().bytes(config) for config in (whole, rows)
    )
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free // 2))
    Population(toy_catalog, users, rows)
    with pytest.raises(ConfigError, match="20 of 20 clients train"):
        Population(toy_catalog, users, whole)


def test_a_user_needs_three_interactions(tiny: Tiny, toy_catalog: Catalog) -> None:
    short = Sequences.from_lists([[1, 2, 3], [1, 2]])
    with pytest.raises(DataError, match=r"user '1' has 2 items, expected at least 3"):
        Population(toy_catalog, short, _config(tiny))
