"""Three nodes with a cache each and one catalog artefact: its titles are read once together; a
tampered file is refused by name, and the other nodes go on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from flower_in_process import InProcessGrid, node_context, tiny_config, write_nodes
from flwr.app import Context, Message, RecordDict
from tiny_llm import save_tiny_llm

from client_app.client import app as client
from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.runs.history import read_history
from lumos_core.views.llm.find import llm_config
from lumos_core.views.llm.load import load_llm
from lumos_core.views.source import STORE
from lumos_core.views.titles import (
    artefact_fetch,
    artefact_offer,
    artefact_pieces,
    artefact_reading,
    embeddings,
)
from lumos_core.views.titles.artefact_offer import Offer
from lumos_core.views.titles.artefact_pieces import Piece
from lumos_core.views.titles.artefact_reading import build_artefact
from lumos_core.views.titles.catalog_artefact import CatalogArtefact
from lumos_core.views.view_store import ViewStore
from server_app.server import app as server

NODES = 3
FILE = "catalog.safetensors"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a federation of the folder; the titles that each machine has read."""
    model = save_tiny_llm(tmp_path / "model")
    folder = write_nodes(tmp_path / "data", nodes=NODES)
    keys = {"method": "lumos", "semantic-start": "llm", "llm": str(model), "min-nodes": 2}
    read: dict[str, list[str]] = {}
    machine = ["builder"]

    def note(titles: Any) -> None:
        read.setdefault(machine[0], []).extend(titles)

    for module in (artefact_reading, embeddings):
        plainly = module.read_titles

        def noting(llm: Any, titles: Any, *others: Any, plainly: Any = plainly) -> Any:
            note(titles)
            return plainly(llm, titles, *others)

        monkeypatch.setattr(module, "read_titles", noting)

    def at(name: str) -> None:
        machine[0] = name
        monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "caches" / name))

    def build(nodes: Any = range(NODES)) -> CatalogArtefact:
        at("builder")
        config = tiny_config(folder, **keys)
        choice = llm_config(config)
        catalog = Catalog.read(folder / "catalog.tsv")
        made = build_artefact(load_llm(choice), choice, catalog, config.llm_noun)
        made.write(folder / FILE)
        for n in nodes:
            shutil.copy(folder / FILE, folder / f"node-{n}" / FILE)
        return made

    def go(node_keys: dict[int, dict[str, Any]] | None = None, **changes: Any) -> RunConfig:
        config = tiny_config(folder, **{**keys, **changes})
        own = node_keys or {}
        contexts = {
            100 + n: node_context(config, n, llm=str(model), **own.get(n, {})) for n in range(NODES)
        }
        grid = InProcessGrid(client, contexts)

        def on_its_machine(n: int) -> Any:
            def answer(message: Message, context: Context) -> Message:
                at(f"node-{n}")
                reply: Message = client(message, context)
                at("server")
                return reply

            return answer

        grid.tamper.update({100 + n: on_its_machine(n) for n in range(NODES)})
        at("server")
        server(
            grid,
            Context(
                run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config.to_flat()
            ),
        )
        return config

    go.folder, go.read, go.build = folder, read, build  # type: ignore[attr-defined]
    go.caches = tmp_path / "caches"  # type: ignore[attr-defined]
    return go


def summary(folder: Path) -> Any:
    return json.loads((folder / "run" / "summary.json").read_text())


def test_three_machines_read_each_title_once_together(run: Any) -> None:
    made = run.build()
    run(**{"catalog-artefact": made.about.digest})
    assert summary(run.folder)["outcome"] == "completed"
    assert summary(run.folder)["views"]["complete"] is True
    titles = Catalog.read(run.folder / "catalog.tsv").titles
    assert sorted(run.read.pop("builder")) == sorted(titles)
    # each node compares a few; the server reads none
    assert {name: len(read) for name, read in run.read.items()} == {
        f"node-{n}": artefact_reading.SAMPLE for n in range(NODES)
    }


@pytest.mark.parametrize("place", [-3, 9_000])  # a title's key; a vector
def test_a_tampered_file_is_refused_by_name_and_the_others_go_on(
    run: Any, capfd: pytest.CaptureFixture[str], place: int
) -> None:
    made = run.build()
    path = run.folder / "node-1" / FILE
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    run(**{"catalog-artefact": made.about.digest})
    found = summary(run.folder)
    assert found["outcome"] == "completed"
    assert found["rounds"] == 2
    log = (run.folder / "node-1" / "state" / "node.log").read_text()
    assert "artefact-refused" in log
    assert f"{path}: catalog artefact refused: found content with the digest" in log
    store = run.folder / "node-1" / "state" / STORE
    assert not store.exists() or len(ViewStore(store)) == 0
    server_log = capfd.readouterr().err.splitlines()
    assert any("node node-1: " in line and "artefact-refused" in line for line in server_log)
    history = read_history(run.folder / "run" / "history.jsonl")
    assert [event["nodes_ok"] for event in history if event["event"] == "round"] == [2, 2]


def test_an_owner_may_demand_an_own_reading(run: Any) -> None:
    run.build()
    run({2: {"use-catalog-artefact": False}})
    assert summary(run.folder)["views"]["complete"] is True
    titles = Catalog.read(run.folder / "catalog.tsv").titles
    assert sorted(run.read["node-2"]) == sorted(titles)
    assert len(run.read["node-0"]) == artefact_reading.SAMPLE


# ---------------------------------------------------------------- from the server
@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (artefact_pieces, artefact_fetch, artefact_offer):
        monkeypatch.setattr(module, "PIECE_BYTES", 10_000)


@pytest.mark.usefixtures("small_pieces")
def test_the_file_beside_one_catalog_serves_nodes_that_lack_it(run: Any) -> None:
    """One node has it beside its catalog, one fetches it, one reads itself as its owner demands."""
    made = run.build(nodes=[0])
    run({2: {"fetch-catalog-artefact": False}}, **{"catalog-artefact": made.about.digest})
    assert summary(run.folder)["outcome"] == "completed"
    assert summary(run.folder)["views"]["complete"] is True
    titles = Catalog.read(run.folder / "catalog.tsv").titles
    assert {name: len(read) for name, read in run.read.items()} == {
        "builder": len(titles),
        "node-0": artefact_reading.SAMPLE,
        "node-1": artefact_reading.SAMPLE,
        "node-2": len(titles),
    }
    fetched = run.caches / "node-1" / "catalogs" / f"fetched-{made.about.digest}.safetensors"
    assert fetched.read_bytes() == (run.folder / FILE).read_bytes()
    assert not (run.folder / "node-1" / FILE).exists()
    sent = [json.loads(line) for line in ledger(run.folder / "node-1")]
    asked = [line for line in sent if line["message"] == "query.artefact"]
    assert len(asked) == -(-fetched.stat().st_size // 10_000) + 1
    assert {tuple(record["names"]) for line in asked for record in line["records"]} == {
        ("piece", "wanted")
    }


def ledger(node: Path) -> list[str]:
    return (node / "state" / "ledger.jsonl").read_text().splitlines()


@pytest.mark.usefixtures("small_pieces")
def test_a_server_that_sends_another_file_is_refused_by_name_and_costs_no_views(
    run: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made = run.build(nodes=[0, 2])
    plainly = Offer.piece

    def damaged(offer: Offer, number: int) -> Piece:
        piece = plainly(offer, number)
        return Piece(number, piece.content[:-1] + b"!")

    monkeypatch.setattr(Offer, "piece", damaged)
    run(**{"catalog-artefact": made.about.digest})
    found = summary(run.folder)
    assert (found["outcome"], found["rounds"]) == ("completed", 2)
    assert found["views"]["complete"] is True, "it has read the titles itself"
    titles = Catalog.read(run.folder / "catalog.tsv").titles
    assert len(run.read["node-1"]) == len(titles)
    log = (run.folder / "node-1" / "state" / "node.log").read_text()
    assert f"catalog artefact {made.about.digest} of the server" in log
    server_log = capfd.readouterr().err.splitlines()
    assert any("node node-1: " in line and "artefact-refused" in line for line in server_log)
    history = read_history(run.folder / "run" / "history.jsonl")
    assert [event["nodes_ok"] for event in history if event["event"] == "round"] == [3, 3]
