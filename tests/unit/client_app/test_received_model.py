"""Which of the models that a node receives it keeps for its own users."""

from pathlib import Path

import pytest
from flower_in_process import identify, node_context, set_message_id, tiny_config, write_nodes
from flwr.app import Message

from client_app.client import app
from lumos_core.config import RunConfig
from lumos_core.data import Catalog
from lumos_core.flower import records
from lumos_core.flower.records import Order
from lumos_core.learning.model import get_params, new_model
from lumos_core.recommend.model_files import (
    KEPT_FINAL,
    KEPT_LATEST,
    kept_model,
    load_model,
    read_card,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    identify()
    return write_nodes(tmp_path)


def ask(folder: Path, kind: str, order: Order, run: RunConfig | None = None, **facts: object):
    message = Message(records.encode_order(order), 100, kind, ttl=60.0)
    context = node_context(run or tiny_config(folder), 0, **facts)
    return app(set_message_id(message, "m1"), context).content


def model(folder: Path):
    return get_params(new_model(tiny_config(folder), len(Catalog.read(folder / "catalog.tsv"))))


def kept(folder: Path) -> dict[str, tuple[int, bool]]:
    state = folder / "node-0" / "state"
    cards = {n: read_card(state / n) for n in (KEPT_LATEST, KEPT_FINAL) if (state / n).exists()}
    return {name: (card.round, card.final) for name, card in cards.items()}


def test_what_is_received_is_kept_under_the_round_it_comes_from(folder: Path) -> None:
    params = model(folder)
    ask(folder, records.DESCRIBE, Order(None, 0, None, ""))
    ask(folder, records.TRAIN, Order(params, 1, "validation", ""))
    assert kept(folder) == {}  # the untrained model that training begins with
    ask(folder, records.TRAIN, Order(params, 2, "validation", ""))
    assert kept(folder) == {KEPT_LATEST: (1, False)}
    ask(folder, records.EVALUATE, Order(params, 2, "validation", ""))
    assert kept(folder) == {KEPT_LATEST: (2, False)}
    best = {n: a * 2 for n, a in params.items()}
    ask(folder, records.EVALUATE, Order(best, 1, "test", ""))
    assert kept(folder) == {KEPT_LATEST: (2, False), KEPT_FINAL: (1, True)}

    catalog = Catalog.read(folder / "catalog.tsv")
    loaded = load_model(folder / "node-0" / "state" / KEPT_FINAL, catalog)
    assert all((a == best[n]).all() for n, a in get_params(loaded).items())

    ask(folder, records.TRAIN, Order(params, 2, None, ""))  # of a new run
    assert kept(folder)[KEPT_FINAL] == (1, True)


def test_the_model_that_a_warm_start_begins_with_is_trained(folder: Path) -> None:
    run = tiny_config(folder).replace(start_model="0123456789abcdef")
    ask(folder, records.TRAIN, Order(model(folder), 1, "validation", ""), run)
    assert kept(folder) == {KEPT_LATEST: (0, False)}
    ask(folder, records.EVALUATE, Order(model(folder), 0, "test", ""), run)
    assert kept(folder) == {KEPT_LATEST: (0, False), KEPT_FINAL: (0, True)}


def test_the_result_of_a_run_without_a_test_replaces_that_of_an_earlier_run(folder: Path) -> None:
    """Nothing is measured, and nothing but an empty answer leaves the node."""
    old, run = model(folder), tiny_config(folder, evaluation="none")
    ask(folder, records.EVALUATE, Order(old, 9, "test", ""))
    new = {n: a * 2 for n, a in old.items()}
    content = ask(folder, records.EVALUATE, Order(new, 3, "test", ""), run)
    assert {name: dict(record) for name, record in content.items()} == {"metrics": {}}
    assert kept(folder) == {KEPT_FINAL: (3, True)}
    catalog = Catalog.read(folder / "catalog.tsv")
    loaded = load_model(kept_model(folder / "node-0" / "state", catalog), catalog)
    assert all((a == new[n]).all() for n, a in get_params(loaded).items())


def test_a_model_that_the_node_refuses_is_not_kept(folder: Path) -> None:
    params = {n: a[..., :-1] for n, a in model(folder).items()}
    content = ask(folder, records.TRAIN, Order(params, 2, None, ""))
    assert content["error"]["code"] == "model-failed"
    assert kept(folder) == {}


def test_a_result_that_the_node_refuses_is_not_kept(folder: Path) -> None:
    params, run = {n: a[..., :-1] for n, a in model(folder).items()}, tiny_config(folder)
    for config in (run, tiny_config(folder, evaluation="none")):
        content = ask(folder, records.EVALUATE, Order(params, 3, "test", ""), config)
        assert content["error"]["code"] == "model-failed"
    assert kept(folder) == {}


def test_an_owner_may_say_no(folder: Path) -> None:
    ask(folder, records.TRAIN, Order(model(folder), 2, None, ""), **{"keep-model": False})
    assert kept(folder) == {}


def test_a_disk_that_refuses_the_model_does_not_cost_the_reply(folder: Path) -> None:
    state = folder / "node-0" / "state"
    state.mkdir()
    (state / "model").write_text("a file where the folder should be")
    content = ask(folder, records.TRAIN, Order(model(folder), 2, None, ""))
    assert set(content) == {"delta", "metrics"}
    assert "storage-failed" in (state / "node.log").read_text()
