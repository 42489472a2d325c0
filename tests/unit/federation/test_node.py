"""One node: what it answers, and that it depends on nothing but its data, name, seed and round."""

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client_app.open_node import open_node
from lumos_core import __version__
from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut
from lumos_core.errors import DataError, ModelError
from lumos_core.federation.node import Node
from lumos_core.learning.evaluation import evaluate
from lumos_core.learning.model import get_params, new_model, set_params
from lumos_core.learning.parameters import ModelShape, Params
from lumos_core.views.view import UserViews
from lumos_core.wire import deltas
from lumos_core.wire.reply_checks import (
    INFO,
    TRAIN_METRICS,
    check_evaluation,
    check_train,
    evaluation_names,
)
from lumos_core.wire.versions import PROTOCOL

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]


@pytest.fixture
def users(toy_users: Users) -> Sequences:
    return toy_users(12, shortest=4)


def _start(config: RunConfig, catalog: Catalog) -> Params:
    return get_params(new_model(config, len(catalog)))


def _equal(a: Params, b: Params) -> bool:
    return list(a) == list(b) and all(a[n].tobytes() == b[n].tobytes() for n in a)


def _no_seconds(metrics: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metrics.items() if k != "seconds"}


def test_describe_holds_counts_and_fingerprints_only(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    node = Node("shop", toy_catalog, users, tiny())
    assert node.describe() == {
        "name": "shop",
        "catalog": toy_catalog.fingerprint,
        "shape": ModelShape.of(tiny(), 24).fingerprint,
        "users": "12",
        "version": __version__,
        "protocol": str(PROTOCOL),
        "flower": importlib.metadata.version("flwr"),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }
    assert set(node.describe()) == INFO


@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
@pytest.mark.parametrize("method", ["fedavg", "confedsrs", "lumos"])
def test_a_train_reply_is_what_the_server_takes(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences, codec: str, method: str
) -> None:
    config = tiny(delta_codec=codec, method=method)
    params = _start(config, toy_catalog)
    arrays, metrics = Node("a", toy_catalog, users, config).train(params, 1, "validation")
    delta = check_train(arrays, metrics, params, config, evaluated=True)
    assert deltas.norm(delta) > 0
    assert set(metrics) == TRAIN_METRICS | evaluation_names(config.title_weights)
    assert metrics["users"] == 12
    assert all(type(v) in (int, float) for v in metrics.values()), "numpy scalars do not travel"


def test_the_delta_is_local_minus_received(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    """Applying a lone node's delta gives the model it trained, which fits its data better."""
    config = tiny(local_epochs=15, dropout=0.0, learning_rate=0.02)
    params = _start(config, toy_catalog)
    before = {n: a.copy() for n, a in params.items()}
    node = Node("a", toy_catalog, users, config)
    arrays, first = node.train(params, 1)
    assert _equal(params, before), "the received model is left as it was"
    _, second = node.train(deltas.add(params, arrays), 2)
    assert second["loss"] < 0.8 * first["loss"]


def test_evaluation_is_of_the_received_model(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    config = tiny(local_epochs=10, learning_rate=0.05)
    params = _start(config, toy_catalog)
    node = Node("a", toy_catalog, users, config)
    model = new_model(config, len(toy_catalog))
    set_params(model, params)
    split = LeaveOneOut(users)
    expected = {
        "validation": evaluate(model, *split.validation())[0.0],
        "test": evaluate(model, *split.test())[0.0],
    }
    assert expected["validation"] != expected["test"]
    for name, sums in expected.items():
        alone = node.evaluate(params, name)
        check_evaluation(alone)
        assert alone == {f"eval-{k}": v for k, v in sums.items()}
        _, along = node.train(params, 1, name)
        assert {k: v for k, v in along.items() if k.startswith("eval-")} == alone


def test_evaluating_on_the_way_does_not_change_the_training(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    """Or a resumed run, which skips evaluations already done, would part from an unbroken one."""
    config = tiny(dropout=0.3, delta_codec="int8")
    params = _start(config, toy_catalog)
    node = Node("a", toy_catalog, users, config)
    assert _equal(node.train(params, 1)[0], node.train(params, 1, "validation")[0])


def test_a_fresh_process_answers_like_the_old_one(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    """In a deployment a new process is started for every message."""
    config = tiny(dropout=0.3, delta_codec="int8", local_epochs=2)
    params = _start(config, toy_catalog)
    kept = Node("a", toy_catalog, users, config)
    kept.train(params, 1)
    torch.rand(5)
    arrays, metrics = kept.train(params, 2)
    fresh, same = Node("a", toy_catalog, users, config).train(params, 2)
    assert _equal(arrays, fresh)
    assert _no_seconds(metrics) == _no_seconds(same)


def test_name_round_and_seed_change_the_draws(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    config = tiny(dropout=0.3)
    params = _start(config, toy_catalog)
    base, _ = Node("a", toy_catalog, users, config).train(params, 1)
    others = [
        Node("b", toy_catalog, users, config).train(params, 1)[0],
        Node("a", toy_catalog, users, config).train(params, 2)[0],
        Node("a", toy_catalog, users, config.replace(seed=1)).train(params, 1)[0],
    ]
    assert not any(_equal(base, other) for other in others)


def test_rounding_does_not_repeat_the_draws_of_training(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[int] = []
    real = np.random.default_rng

    def noted(seed: Any) -> np.random.Generator:
        generator = real(seed)
        states.append(generator.bit_generator.state["state"]["state"])
        return generator

    monkeypatch.setattr(np.random, "default_rng", noted)
    config = tiny(local_epochs=4, delta_codec="int8")
    Node("a", toy_catalog, users, config).train(_start(config, toy_catalog), 1)
    assert len(states) == 5
    assert len(set(states)) == 5


@pytest.mark.parametrize("codec", ["float32", "int8"])
@pytest.mark.parametrize("histories", [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6, 7]], [[5, 5, 5]]])
def test_the_smallest_nodes_are_taken_by_the_server(
    tiny: Tiny, toy_catalog: Catalog, histories: list[list[int]], codec: str
) -> None:
    """A household with one user and three purchases is a node like any other."""
    config = tiny(delta_codec=codec)
    params = _start(config, toy_catalog)
    node = Node("home", toy_catalog, Sequences.from_lists(histories), config)
    arrays, metrics = node.train(params, 1, "validation")
    check_train(arrays, metrics, params, config, evaluated=True)
    assert metrics["users"] == len(histories)
    assert metrics["examples"] == sum(len(h) - 3 for h in histories)


def test_a_misspelt_split_is_not_taken_for_the_test_set(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    node = Node("a", toy_catalog, users, tiny())
    with pytest.raises(KeyError, match="valid"):
        node.evaluate(_start(tiny(), toy_catalog), "valid")


def test_users_with_too_few_items_are_an_error(tiny: Tiny, toy_catalog: Catalog) -> None:
    with pytest.raises(DataError, match="at least 3"):
        Node("a", toy_catalog, Sequences.from_lists([[1, 2]]), tiny())


def test_a_model_of_another_size_is_an_error(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    node = Node("a", toy_catalog, users, tiny())
    params = _start(tiny(dim=16), toy_catalog)
    for call in (lambda: node.train(params, 1), lambda: node.evaluate(params, "test")):
        with pytest.raises(ModelError, match="do not fit the model"):
            call()


# ---------------------------------------------------------------- views
class Views:
    """A view source that has views for a growing number of users."""

    def __init__(self, *have: int) -> None:
        self.have, self.calls = list(have), 0

    def __call__(self, histories: Sequences) -> dict[int, UserViews]:
        known = self.have[min(self.calls, len(self.have) - 1)]
        self.calls += 1
        return {u: UserViews((1,), (2, 3), (4, 5)) for u in range(known)}


def test_views_are_asked_for_until_all_are_there(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    config = tiny(method="lumos")
    params = _start(config, toy_catalog)
    source = Views(0, 5, 12)
    node = Node("a", toy_catalog, users, config, source)
    complete = [node.train(params, r)[1]["views-complete"] for r in range(1, 6)]
    assert complete == [0, 0, 1, 1, 1]
    assert source.calls == 3, "a complete set is not asked for again"


def test_views_are_written_for_training_histories_only(
    tiny: Tiny, toy_catalog: Catalog, users: Sequences
) -> None:
    """A view that has seen the validation or test item would leak it into the training."""
    seen: list[list[int]] = []

    def source(histories: Sequences) -> dict[int, UserViews]:
        seen.extend(h.tolist() for h in histories)
        return {}

    node = Node("a", toy_catalog, users, tiny(method="lumos"), source)
    node.train(_start(node.config, toy_catalog), 1)
    assert seen == [h.tolist()[:-2] for h in users]


def test_evaluation_needs_no_views(tiny: Tiny, toy_catalog: Catalog, users: Sequences) -> None:
    source = Views(12)
    node = Node("a", toy_catalog, users, tiny(method="lumos"), source)
    node.evaluate(_start(node.config, toy_catalog), "test")
    node.describe()
    assert source.calls == 0


# ---------------------------------------------------------------- from a folder
def test_a_node_from_its_data_folder(tiny: Tiny, toy_catalog: Catalog, tmp_path: Path) -> None:
    toy_catalog.write(tmp_path / "catalog.tsv")
    rows = [f"u{u}\ti{1 + (u + t) % 24}\t{t}" for u in range(3) for t in range(5)]
    table = "\n".join(["user_id\titem_id\ttimestamp", *rows]) + "\n"
    (tmp_path / "interactions.tsv").write_text(table)
    config = tiny()
    node = open_node(config, NodeConfig(data=str(tmp_path), name="shop"))
    assert node.describe()["users"] == "3"
    assert node.name == "shop"
    by_hand = Sequences.from_lists([[1 + (u + t) % 24 for t in range(5)] for u in range(3)])
    params = _start(config, toy_catalog)
    arrays, _ = node.train(params, 1)
    expected, _ = Node("shop", toy_catalog, by_hand, config).train(params, 1)
    assert _equal(arrays, expected)
    assert np.isfinite(list(node.evaluate(params, "test").values())).all()


def test_a_folder_that_is_none_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_node(tiny(), NodeConfig(data=str(tmp_path / "missing")))
