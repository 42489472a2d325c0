"""A run has the same data in all of its rounds; what arrives meanwhile enters with the next one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from flower_in_process import InProcessGrid, identify, node_context, tiny_config, write_nodes
from flwr.app import Context, RecordDict

from client_app.client import app as client
from lumos_core.data.catalog import Catalog
from lumos_core.data.catalog_versions import Lineage
from lumos_core.data.ingest import ingest
from lumos_core.data.node_cache import SNAPSHOT, keep_snapshot, read_snapshot
from lumos_core.data.node_folder import read_node
from lumos_core.errors import ModelError, ReplyError
from lumos_core.flower import records
from lumos_core.flower.records import Order
from lumos_core.runs.history import read_history
from lumos_core.runs.identity import IDENTITY, RunIdentity
from server_app.server import app as server

LATER = "user_id\titem_id\ttimestamp\n" + "".join(
    f"later{n}\ti{k}\t{k}\n" for n in range(3) for k in range(4)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    identify()
    return write_nodes(tmp_path / "data")


def arrive(folder: Path) -> None:
    log = folder / "later.tsv"
    log.write_text(LATER)
    own = folder / "node-0"
    assert ingest(log, own, own / "state").added in (12, 0)


def users_by_round(
    folder: Path,
    run: str,
    arrives_in: int | None = None,
    rounds: int = 3,
    meanwhile: Callable[[Path], None] = arrive,
) -> list[int]:
    """Users who trained in each round of a run; in one of them something arrives for node-0."""
    config = tiny_config(folder, rounds=rounds, **{"run-dir": str(folder / run)})
    grid = InProcessGrid(client, {100 + n: node_context(config, n) for n in range(2)})

    def answer(message, context):  # type: ignore[no-untyped-def]
        order = records.decode_order(message.content)
        if message.metadata.message_type == records.TRAIN and order.round == arrives_in:
            meanwhile(folder)
        return client(message, context)

    grid.tamper[100] = answer
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config.to_flat()
    )
    server(grid, context)
    history = read_history(folder / run / "history.jsonl")
    return [event["users"] for event in history if event["event"] == "round"]


def test_rows_that_arrive_during_a_run_enter_with_the_next(folder: Path) -> None:
    """Both runs have the same configuration, and so the same key of a run."""
    assert users_by_round(folder, "first", arrives_in=2) == [12, 12, 12]
    assert users_by_round(folder, "second") == [15, 15, 15]


def test_a_resumed_run_keeps_its_data(folder: Path) -> None:
    assert users_by_round(folder, "run", arrives_in=2, rounds=2) == [12, 12]
    assert users_by_round(folder, "run", rounds=4) == [12, 12, 12, 12]
    assert users_by_round(folder, "other", rounds=2) == [15, 15]


def test_a_catalog_that_is_replaced_enters_with_the_next_run(folder: Path) -> None:
    """node-0 gets the next version, and interactions with its new item, while a run goes on."""
    own = folder / "node-0"
    before = Catalog.read(own / "catalog.tsv")
    chain, _ = Lineage.of(before).extended(
        Catalog((*before.item_ids, "new"), (*before.titles, "a new thing"))
    )

    def replace(folder: Path) -> None:
        chain.write(own / "catalog.tsv")
        log = folder / "later.tsv"
        log.write_text(LATER.replace("i3", "new"))
        assert ingest(log, own, own / "state").added == 12

    assert users_by_round(folder, "first", arrives_in=2, meanwhile=replace) == [12, 12, 12]
    chain.write(folder / "catalog.tsv")
    assert users_by_round(folder, "second") == [15, 15, 15]


def test_what_is_kept_is_that_of_one_run_and_private(folder: Path) -> None:
    own = folder / "node-0"
    state, catalog = own / "state", read_node(own)[0]
    users_by_round(folder, "run")
    name = RunIdentity.of(folder / "run").run
    found = read_snapshot(own, state, name)
    assert found is not None
    assert found[0].fingerprint == catalog.fingerprint
    assert found[0].path == own / "catalog.tsv", "files beside it are found"
    assert read_snapshot(own, state, "ab" * 8) is None
    assert read_snapshot(own, state, name, min_history=1) is None
    assert (state / SNAPSHOT).stat().st_mode & 0o777 == 0o600
    (state / SNAPSHOT).write_bytes(b"PK\x03\x04")
    assert read_snapshot(own, state, name) is None


def test_a_node_with_another_catalog_reads_its_files_again_until_it_is_right(folder: Path) -> None:
    """What was kept under a catalog that is not the run's does not stand in the way of a repair."""
    state = folder / "node-0" / "state"
    right, users = read_node(folder / "node-0")
    wrong = type(right)(right.item_ids, tuple(f"{t} x" for t in right.titles))
    name = RunIdentity.of(folder / "run").run
    keep_snapshot(state, name, wrong, users)
    assert users_by_round(folder, "run") == [12, 12, 12]


def test_the_name_of_a_run_stays_and_is_checked(tmp_path: Path) -> None:
    name = RunIdentity.of(tmp_path).run
    assert RunIdentity.of(tmp_path).run == name
    assert RunIdentity.of(tmp_path / "other").run != name
    (tmp_path / IDENTITY).write_text('{"run": "../x"}')
    with pytest.raises(ModelError, match=r"identity\.json"):
        RunIdentity.of(tmp_path)
    assert (
        records.decode_order(records.encode_order(Order(None, 0, None, "", run=name))).run == name
    )
    for bad in ("x", "a" * 65, "../../state"):
        with pytest.raises(ReplyError, match="'run'"):
            records.decode_order(records.encode_order(Order(None, 0, None, "", run=bad)))


def test_a_server_of_an_older_version_names_no_run_and_nothing_is_kept(folder: Path) -> None:
    content = records.encode_order(Order(None, 0, None, ""))
    del content.config_records[records.INSTRUCTION]["run"]
    assert records.decode_order(content).run == ""
