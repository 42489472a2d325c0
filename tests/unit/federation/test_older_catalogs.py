"""Nodes with an earlier version of the run's catalog take part with the items that they know."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flower_in_process import InProcessGrid, node_context, tiny_config, write_nodes
from flwr.app import Context, RecordDict

from client_app.client import app as client
from lumos_core import Catalog, RunConfig, load_model
from lumos_core.data import Sequences
from lumos_core.data.catalog_versions import Lineage
from lumos_core.errors import FederationError
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.older_catalogs import OlderCatalogs
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.learning.parameters import ITEM_BIAS, ITEM_TABLE, Params, of_first_items
from lumos_core.learning.title_start import initial_params
from lumos_core.recommend.model_files import KEPT_FINAL, read_card
from lumos_core.runs.history import VERSIONS, read_history
from lumos_core.runs.status import nodes_of
from lumos_core.wire.codecs import CODECS
from lumos_core.wire.messages import Instruction, Reply
from server_app.server import app as server

OLD = Catalog(tuple(f"i{n}" for n in range(6)), tuple(f"thing {n}" for n in range(6)))
NEW = Catalog(
    (*OLD.item_ids, "new1", "new2"), ("thing number 0", *OLD.titles[1:], "cup 1", "cup 2")
)
CHAIN = Lineage.of(OLD).extended(NEW)[0]
CONFIG = RunConfig(
    method="fedavg-plus", rounds=1, dim=8, heads=1, layers=1, max_len=6, local_epochs=1,
    weighting="uniform", start_timeout=1.0, item_bias="learned",
)  # fmt: skip
AHEAD = Sequences.from_lists([[1, 3, 7, 2], [2, 8, 6, 1], [7, 8, 1, 2]])
BEHIND = Sequences.from_lists([[5, 6, 1, 3], [2, 3, 4, 5]])


class Told(InProcessTransport):
    """Remembers what nodes were asked."""

    def __init__(self, nodes: list[Node]) -> None:
        super().__init__(nodes)
        self.asked: list[Instruction] = []

    def exchange(self, instructions, deadline):  # type: ignore[no-untyped-def]
        self.asked += instructions
        return super().exchange(instructions, deadline)


def nodes(config: RunConfig = CONFIG, behind: Catalog = OLD) -> list[Node]:
    return [Node("ahead", NEW, AHEAD, config), Node("behind", behind, BEHIND, config)]


def run(
    transport: InProcessTransport, config: RunConfig = CONFIG, lineage: Lineage | None = CHAIN
) -> FederationResult:
    initial = initial_params(config, NEW)
    return run_federation(config, transport, NEW.fingerprint, initial, lineage=lineage)


def test_the_delta_of_a_node_behind_is_zero_for_items_that_it_does_not_know() -> None:
    config = CONFIG.replace(
        evaluation="none", title_weight=0.0
    )  # so that the result is the last model
    start = initial_params(config, NEW)
    ahead, behind = nodes(config)
    one, _ = ahead.train(start, 1)
    other, _ = behind.train(of_first_items(start, 6), 1)
    assert other[ITEM_TABLE].shape == (7, 8)
    expected: Params = {}
    for name, array in start.items():
        whole = np.zeros_like(array)
        whole[: len(other[name])] = other[name]
        expected[name] = array + 0.5 * one[name] + 0.5 * whole
    found = run(InProcessTransport(nodes(config)), config)
    assert found.outcome == "completed"
    for name in expected:
        np.testing.assert_allclose(found.params[name], expected[name], atol=1e-6, err_msg=name)
    assert ITEM_BIAS in expected
    assert np.abs(one[ITEM_TABLE][7:]).max() > 0


def test_it_gets_the_model_and_the_fingerprint_of_its_own_catalog() -> None:
    transport = Told(nodes())
    result = run(transport)
    work = [i for i in transport.asked if i.kind in ("train", "evaluate")]
    assert {i.node for i in work} == {"ahead", "behind"}
    for instruction in work:
        assert instruction.params is not None
        rows = {"ahead": 9, "behind": 7}[instruction.node]
        assert len(instruction.params[ITEM_TABLE]) == rows == len(instruction.params[ITEM_BIAS])
        expected = {"ahead": "", "behind": OLD.fingerprint}[instruction.node]
        assert instruction.catalog == expected
    evaluations = [e for e in result.events if e["event"] == "evaluation"]
    assert all(e["nodes"] == ["ahead", "behind"] for e in evaluations)
    assert {e["users"] for e in evaluations} == {5}


def test_whoever_runs_the_server_is_told_by_name() -> None:
    result = run(InProcessTransport(nodes()))
    [event] = [e for e in result.events if e["event"] == VERSIONS]
    assert event["node"] == "behind"
    assert event["note"].startswith("uses catalog version 1 of 2: it trains and ranks the first 6")
    notes = {status.name: status.note for status in nodes_of(result.events)}
    assert notes == {"ahead": "", "behind": event["note"]}


class Liar(InProcessTransport):
    """The node behind lies about itself, or about its delta."""

    def __init__(self, how: str) -> None:
        super().__init__(nodes())
        self._how = how

    def _answer(self, instruction: Instruction) -> Reply:
        reply = super()._answer(instruction)
        if instruction.node != "behind":
            return reply
        if instruction.kind == "describe" and self._how == "shape":
            shape = nodes()[0].shape.fingerprint
            return replace(reply, info={**reply.info, "shape": shape})
        if instruction.kind == "train" and self._how == "size":
            start = initial_params(CONFIG, NEW)
            return replace(reply, arrays={n: np.zeros_like(a) for n, a in start.items()})
        return reply


def test_a_delta_of_another_size_than_its_catalog_is_rejected() -> None:
    result = run(Liar("size"), CONFIG.replace(min_replies=1))
    [event] = [e for e in result.events if e["event"] == "round"]
    assert event["ok"] == ["ahead"]
    [failed] = event["failed"]
    assert failed["node"] == "behind"
    assert "shape" in failed["reason"]


@pytest.mark.parametrize(
    ("config", "transport", "reason"),
    [
        (CONFIG, Liar("shape"), "its shape is"),
        (
            CONFIG.replace(dp="distributed", weighting="uniform", method="fedavg"),
            None,
            "its catalog is version 1 of 2, and dp = distributed",
        ),
    ],
)
def test_it_is_refused_by_name_where_it_cannot_take_part(
    config: RunConfig, transport: InProcessTransport | None, reason: str
) -> None:
    config = config.replace(min_nodes=2, start_timeout=0.5)
    with pytest.raises(FederationError, match=reason):
        run(transport or InProcessTransport(nodes(config)), config)


def test_masked_sums_need_one_catalog() -> None:
    config = RunConfig(
        method="fedavg", secure_aggregation=True, weighting="uniform", min_nodes=3, min_replies=3
    )
    older = OlderCatalogs(InProcessTransport(nodes()), config, CHAIN).find(OLD.fingerprint)
    assert older is not None
    assert "its catalog is version 1 of 2, and secure-aggregation = true" in older.refusal


def test_without_a_chain_or_of_another_chain_it_is_refused_as_before() -> None:
    config = CONFIG.replace(min_nodes=2, start_timeout=0.5)
    with pytest.raises(FederationError, match="its catalog is"):
        run(InProcessTransport(nodes(config)), config, lineage=None)
    other = Catalog(OLD.item_ids, (*OLD.titles[:5], "something else"))
    with pytest.raises(FederationError, match="its catalog is"):
        run(InProcessTransport(nodes(config, other)), config)


# ---------------------------------------------------------------- over messages
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_over_messages_with_every_codec(tmp_path: Path, codec: str) -> None:
    """node-0 and the server have two versions of the catalog, node-1 the first one only."""
    folder = write_nodes(tmp_path)
    before = Catalog.read(folder / "catalog.tsv")
    chain, _ = Lineage.of(before).extended(
        Catalog((*before.item_ids, "new"), ("corrected", *before.titles[1:], "secret new"))
    )
    for place in (folder, folder / "node-0"):
        chain.write(place / "catalog.tsv")
    with (folder / "node-0" / "interactions.tsv").open("a") as file:
        file.write("".join(f"u0x{user}\tnew\t99\n" for user in range(6)))
    config = tiny_config(
        folder, **{"delta-codec": codec, "min-nodes": 2, "min-replies": 2, "method": "fedavg-plus"}
    )
    grid = InProcessGrid(client, {100 + n: node_context(config, n) for n in range(2)})
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config.to_flat()
    )
    server(grid, context)
    events = read_history(folder / "run" / "history.jsonl")
    rounds = [e for e in events if e["event"] == "round"]
    assert [e["ok"] for e in rounds] == [["node-0", "node-1"]] * 2
    assert [e["failed"] for e in rounds] == [[], []]
    assert [e["users"] for e in rounds] == [12, 12]
    assert load_model(folder / "run", chain.catalog).shape.num_items == 31
    kept = folder / "node-1" / "state" / KEPT_FINAL
    assert read_card(kept).catalog == before.fingerprint
    assert load_model(kept, before).shape.num_items == 30
    assert load_model(kept, chain.catalog.read(folder / "catalog.tsv")).shape.num_items == 31
