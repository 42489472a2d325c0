"""New interactions for a node: what is new is taken once, what does not fit is refused by name."""

import gzip
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from lumos_core.data.forgotten_users import (
    FORGOTTEN_USERS,
    ForgottenUsers,
    digest,
    readmit_users,
)
from lumos_core.data.ingest import Ingested, ingest
from lumos_core.data.interactions import read_interactions
from lumos_core.data.node_folder import read_node
from lumos_core.data.prepared_folder import NODE_FILE, NodeFacts
from lumos_core.data.reading.columns import Columns
from lumos_core.data.removed_users import leftovers
from lumos_core.errors import DataError

HOUR = 3600
START = 1_700_000_000
OLD = [("ann", "a", START), ("ann", "b", START + HOUR), ("ann", "c", START + 2 * HOUR)]
NEW = [("ann", "a", START + 3 * HOUR), ("bob", "b", START + HOUR), ("bob", "c", START + 2 * HOUR)]
ROWS = list[tuple[str, str, int]]


def frame(rows: ROWS) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def tsv(path: Path, rows: ROWS) -> Path:
    path.write_text(
        "user_id\titem_id\ttimestamp\n" + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in rows)
    )
    return path


@pytest.fixture
def node(tmp_path: Path) -> Path:
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "catalog.tsv").write_text("item_id\ttitle\na\tApple\nb\tBread\nc\tCake\n")
    tsv(folder / "interactions.tsv", OLD)
    return folder


def take(node: Path, rows: ROWS, **options: object) -> Ingested:
    log = tsv(node.parent / "log.tsv", rows)
    return ingest(log, node, node / "state", **options)  # type: ignore[arg-type]


def rows_of(node: Path) -> ROWS:
    [path] = node.glob("interactions.*")
    return read_interactions(path).frame.rows()  # type: ignore[return-value]


def test_new_rows_are_appended_and_found_by_the_node(node: Path) -> None:
    done = take(node, NEW)
    assert (done.read, done.added, done.new_users) == (3, 3, 1)
    assert rows_of(node) == OLD + NEW
    catalog, users = read_node(node)
    assert users.user_ids == ("ann",), "bob has two interactions, and waits for a third"
    assert [catalog.item_id(i) for i in users[0]] == ["a", "b", "c", "a"]
    assert users.left_out == 1


def test_baskets_that_come_every_night_are_no_warning(node: Path) -> None:
    """`lumos prepare` has told that many rows share their time."""
    found = take(node, [("bob", item, START + 3 * HOUR) for item in "abc"])
    assert found.added == 3
    assert not any("share their time" in warning for warning in found.warnings)


def test_what_is_there_is_not_taken_again(node: Path) -> None:
    take(node, NEW)
    before = (node / "interactions.tsv").stat()
    again = take(node, NEW)
    assert (again.added, again.known) == (0, 3)
    after = (node / "interactions.tsv").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    overlapping = take(node, [*NEW[1:], ("bob", "a", START + 9 * HOUR), NEW[1]])
    assert (overlapping.added, overlapping.known, overlapping.new_users) == (1, 3, 0)
    assert len(rows_of(node)) == 7


def test_an_unknown_item_is_refused_by_name_or_waits_for_the_catalog(node: Path) -> None:
    log = [*NEW, ("bob", "new", START + 5 * HOUR)]
    with pytest.raises(DataError, match=r"log.tsv: line 5: item 'new' is not in .*catalog.tsv"):
        take(node, log)
    assert rows_of(node) == OLD
    done = take(node, log, unknown_items="drop")
    assert (done.added, done.unknown_items, done.items) == (3, 1, ("new",))
    assert done.sentence() == (
        "4 rows = 3 added (1 new user) + 1 with items that the catalog lacks"
    )
    with (node / "catalog.tsv").open("a") as file:
        file.write("new\tNew thing\n")
    later = take(node, log)
    assert (later.added, later.known) == (1, 3)
    assert read_node(node)[1].user_ids == ("ann", "bob")


@pytest.mark.parametrize("kind", ["csv", "csv-quoted", "jsonl", "parquet", "gz", "no-newline"])
def test_the_file_keeps_its_format_and_its_other_columns(node: Path, kind: str) -> None:
    (node / "interactions.tsv").unlink()
    table = frame(OLD).rename({"user_id": "customer", "timestamp": "time"})
    table = table.with_columns(shop=pl.lit("north" if kind != "csv-quoted" else 'no "r" th, x'))
    table = table.select("shop", "time", "item_id", "customer")
    if kind == "parquet":
        table.write_parquet(node / "interactions.parquet")
    elif kind == "jsonl":
        table.write_ndjson(node / "interactions.jsonl")
    else:
        text = table.write_csv()
        text = text.rstrip("\n") if kind == "no-newline" else text
        packed = kind == "gz"
        path = node / ("interactions.csv.gz" if packed else "interactions.csv")
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    [path] = node.glob("interactions.*")
    path.chmod(0o640)
    before = path.read_bytes()
    assert take(node, NEW).added == 3
    assert rows_of(node) == OLD + NEW
    assert path.stat().st_mode & 0o777 == 0o640
    if kind not in ("parquet", "gz"):
        assert path.read_bytes().startswith(before)
    if kind == "parquet":
        assert pl.read_parquet(path)["shop"].to_list() == ["north"] * 3 + [None] * 3
    if kind == "jsonl":
        assert json.loads(path.read_text().splitlines()[-1])["customer"] == "bob"


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ([START * 1000], r"times are milliseconds, those of .*interactions.tsv are seconds"),
        ([3], r"times are positions.*are seconds"),
    ],
)
def test_times_must_be_comparable(node: Path, times: list[int], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        take(node, [("ann", "a", time) for time in times])
    with pytest.raises(DataError, match="--order file"):
        take(node, NEW, columns=Columns(file_order=True))
    assert rows_of(node) == OLD


def test_a_log_without_times_is_refused_without_an_option_that_ingest_lacks(node: Path) -> None:
    log = node.parent / "log.csv"
    for text in ("user,item\nann,a\n", "ann,a\nbob,b\n"):
        log.write_text(text)
        with pytest.raises(DataError, match=r"no (user|time) column") as caught:
            ingest(log, node, node / "state")
        assert "give --order file" not in str(caught.value)
    log.write_text("user,item\nann,a\n")
    with pytest.raises(DataError, match=r"new rows need times.*lumos prepare --order file"):
        ingest(log, node, node / "state")
    log.write_text("1,2\n1,3\n")
    with pytest.raises(DataError, match="is a row and no header") as caught:
        ingest(log, node, node / "state")
    assert "--order" not in str(caught.value)
    assert rows_of(node) == OLD


def test_a_time_with_a_fraction_keeps_all_others(node: Path) -> None:
    log = node.parent / "fine.tsv"
    log.write_text(f"user_id\titem_id\ttimestamp\nann\ta\t{START}.5\nann\ta\t{START}.0\n")
    done = ingest(log, node, node / "state")
    assert (done.added, done.known) == (1, 1)
    assert [row[2] for row in rows_of(node)] == [START, START + HOUR, START + 2 * HOUR, START + 0.5]


def test_rows_that_the_file_cannot_hold_leave_it_as_it_was(node: Path) -> None:
    """A file of columns separated by commas without quotes cannot hold an id with a comma."""
    (node / "interactions.tsv").unlink()
    frame(OLD).write_csv(node / "interactions.csv")
    before = (node / "interactions.csv").read_bytes()
    with pytest.raises(DataError, match="would not be read"):
        take(node, [("a,b", "a", START)])
    assert (node / "interactions.csv").read_bytes() == before
    assert {p.name for p in node.iterdir()} == {"catalog.tsv", "interactions.csv", "state"}


def test_users_who_were_forgotten_stay_away_until_they_are_let_in(node: Path) -> None:
    state = node / "state"
    known = ForgottenUsers().adding("5a17", [digest("5a17", "bob")])
    state.mkdir()
    known.write(state / FORGOTTEN_USERS)
    done = take(node, NEW)
    assert (done.added, done.forgotten) == (1, 2)
    assert b"bob" not in (node / "interactions.tsv").read_bytes()
    with pytest.raises(DataError, match="has no user 'cleo'"):
        readmit_users(state, ["bob", "cleo"])
    assert readmit_users(state, ["bob"]) == ["bob"]
    assert take(node, NEW).added == 2
    (state / FORGOTTEN_USERS).write_text("{")
    with pytest.raises(DataError, match=r"forgotten\.json"):
        take(node, NEW)


def test_two_at_once_lose_nothing(node: Path) -> None:
    """Each takes rows of its own; the one that comes second sees the rows of the first."""
    logs = [
        tsv(node.parent / f"log-{n}.tsv", [(f"u{n}-{k}", "a", START + k) for k in range(50)])
        for n in range(3)
    ]
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        done = pool.starmap(ingest, [(log, node, node / "state") for log in logs])
    assert [d.added for d in done] == [50] * 3
    assert len(rows_of(node)) == 3 + 150


_KILLED = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
from lumos_core.data import ingest as module
def killed(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(import_module("lumos_core.data." + sys.argv[3]), sys.argv[4], killed)
module.ingest(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[2]) / "state")
"""
KILLS = {
    "the log is read": ("ingest", "_check_times", OLD, 0),
    "the new file is written, not in place": ("rewriting", "take_over", OLD, 1),
    "the new file is in place, its rows are not counted": ("ingest", "renew_facts", OLD + NEW, 0),
}


@pytest.mark.parametrize("when", KILLS)
def test_a_kill_leaves_the_old_rows_or_all_and_the_next_call_does_the_rest(
    node: Path, when: str
) -> None:
    module, step, rows, left = KILLS[when]
    log = tsv(node.parent / "log.tsv", NEW)
    NodeFacts(users=1, interactions=3).write(node / NODE_FILE)
    program = [sys.executable, "-c", _KILLED, str(log), str(node), module, step]
    done = subprocess.run(program, env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert rows_of(node) == rows
    assert len(leftovers(node / "interactions.tsv")) == left
    assert take(node, NEW).added == len(OLD + NEW) - len(rows)
    assert rows_of(node) == OLD + NEW
    assert leftovers(node / "interactions.tsv") == []
    facts = NodeFacts.read(node / NODE_FILE)
    assert (facts.users, facts.interactions) == (2, 6)
