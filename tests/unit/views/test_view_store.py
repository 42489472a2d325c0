"""The view store: nothing lost, nothing half written, two processes at once."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from lumos_core.data.catalog import Catalog
from lumos_core.errors import DataError
from lumos_core.views.item_names import ItemNames
from lumos_core.views.provenance import Writer
from lumos_core.views.view import BY_CONTENT, UserViews
from lumos_core.views.view_store import ViewStore, WriterCount, view_key

VIEWS = UserViews((4, 5), (7, 8, 9), (1, 1, 2))
TFIDF, LLM = Writer("f1", "tfidf"), Writer("f2", "llm", "smollm2", "score", "films")
HISTORIES = ((1, 2, 3), (1, 2))


def test_round_trip_and_absent_keys(tmp_path: Path) -> None:
    with ViewStore(tmp_path / "new" / "views.sqlite") as store:
        store.put_many({b"a": VIEWS, b"b": UserViews((), (1,), (2,))})
        assert store.get_many([b"a", b"b", b"c", b"a"]) == {
            b"a": VIEWS,
            b"b": UserViews((), (1,), (2,)),
        }
        assert len(store) == 2


def test_first_value_of_a_key_stays(tmp_path: Path) -> None:
    with ViewStore(tmp_path / "views.sqlite") as store:
        store.put_many({b"a": VIEWS})
        store.put_many({b"a": UserViews((1,), (1,), (1,))})
        assert store.get_many([b"a"]) == {b"a": VIEWS}


def test_more_keys_than_a_query_takes(tmp_path: Path) -> None:
    views = {i.to_bytes(4, "big"): UserViews((i,), (i,), (i,)) for i in range(2_345)}
    with ViewStore(tmp_path / "views.sqlite") as store:
        store.put_many(views)
        assert store.get_many(views) == views


def test_key_depends_on_fingerprint_history_and_order() -> None:
    keys = {
        view_key("f", [1, 2]),
        view_key("g", [1, 2]),
        view_key("f", [2, 1]),
        view_key("f", [1, 2, 3]),
        view_key("f", []),
    }
    assert len(keys) == 5
    assert view_key("f", [1, 2]) == view_key("f", (1, 2))


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(DataError, match=r"views\.sqlite.*delete it"):
        ViewStore(path)


def test_a_store_that_breaks_while_it_is_used_is_named(tmp_path: Path) -> None:
    with ViewStore(tmp_path / "views.sqlite") as store:
        store.put_many({b"a": VIEWS})
        with sqlite3.connect(tmp_path / "views.sqlite") as other:
            other.execute("UPDATE views SET future = x'00'")  # no whole number of items
        other.close()
        with pytest.raises(DataError, match=r"views\.sqlite cannot be used .*delete it"):
            store.get_many([b"a"])
        with sqlite3.connect(tmp_path / "views.sqlite") as other:
            other.execute("DROP TABLE views")
        other.close()
        for use in (lambda: len(store), lambda: store.put_many({b"b": VIEWS}), store.writers):
            with pytest.raises(DataError, match=r"no such table.*delete it"):
                use()


def _put(path: Path, worker: int) -> None:
    with ViewStore(path) as store:
        for i in range(40):
            store.put_many({bytes([worker, i, j]): VIEWS for j in range(5)})


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_put, args=(path, w)) for w in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    with ViewStore(path) as store:
        assert len(store) == 2 * 40 * 5


def _open_new(folder: Path, start: Barrier) -> None:
    for i in range(40):
        start.wait(60)  # all create the same file in the same moment
        ViewStore(folder / f"{i}.sqlite").close()


def test_processes_may_create_a_store_in_the_same_moment(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    workers = [context.Process(target=_open_new, args=(tmp_path, start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


_ENDLESS = """
import sys
from pathlib import Path
from lumos_core.views.view_store import ViewStore
from lumos_core.views.view import UserViews
from lumos_core.views.provenance import Writer
store = ViewStore(Path(sys.argv[1]))
for i in range(10**9):
    rows = {i.to_bytes(4, "big") + bytes([j]): UserViews((i,), (j,), (1,)) for j in range(20)}
    store.put_many(rows)
    print(i, flush=True)
"""


def test_kill_in_the_middle_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    last = [int(process.stdout.readline()) for _ in range(50)][-1]
    time.sleep(0.01)  # somewhere inside a later transaction
    os.kill(process.pid, signal.SIGKILL)
    last = max([last, *(int(line) for line in process.stdout.read().split("\n")[:-1] if line)])
    process.wait()
    with ViewStore(path) as store:
        keys = [i.to_bytes(4, "big") + bytes([j]) for i in range(last + 1) for j in range(20)]
        assert len(store.get_many(keys)) == len(keys)  # every batch that was confirmed …
        assert len(store) % 20 == 0  # … and no part of one that was not
        store.put_many({b"after": VIEWS})
        assert store.get_many([b"after"]) == {b"after": VIEWS}


# ---------------------------------------------------------------- writers
SCORE = Writer("f" * 64, "llm", "smollm2", "score", "films seen", "0.1.0")
TFIDF = Writer("0" * 64, "tfidf", version="0.1.0")


def old_store(path: Path, views: dict[bytes, UserViews]) -> None:
    """A store as it was before it noted writers."""
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TABLE views (key BLOB PRIMARY KEY, future BLOB NOT NULL, "
            "paraphrase BLOB NOT NULL, counterfactual BLOB NOT NULL) WITHOUT ROWID"
        )
        rows = [(k, *(np.asarray(v, "<i4").tobytes() for v in three)) for k, three in views.items()]
        db.executemany("INSERT INTO views VALUES (?, ?, ?, ?)", rows)
    db.close()


def test_a_store_tells_whose_views_it_has(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    for writer, keys in ((SCORE, b"ab"), (TFIDF, b"c"), (SCORE, b"de"), (None, b"f")):
        with ViewStore(path, writer) as store:
            store.put_many({bytes([key]): VIEWS for key in keys})
    with ViewStore(path) as store:
        assert store.writers() == [
            WriterCount(None, 1), WriterCount(SCORE, 4), WriterCount(TFIDF, 1),
        ]  # fmt: skip
        assert len(store) == 6


def test_an_old_store_loses_nothing_and_learns_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    views = {bytes([i, i]): UserViews((i,), (i + 1,), (i + 2,)) for i in range(200)}
    old_store(path, views)
    with ViewStore(path) as store:
        assert store.get_many(views) == views
        assert store.writers() == [WriterCount(None, 200)]
    with ViewStore(path, SCORE) as store:  # asked for by these keys: so it has written them
        some = list(views)[:150]
        assert store.get_many(some) == {key: views[key] for key in some}
        assert store.writers() == [WriterCount(None, 50), WriterCount(SCORE, 150)]
    with ViewStore(path, TFIDF) as store:
        store.put_many({b"new": VIEWS, next(iter(views)): VIEWS})
        assert store.get_many(views) == views
        assert sum(count.views for count in store.writers()) == 201


def test_a_transaction_that_fails_leaves_no_writer_behind(tmp_path: Path) -> None:
    with ViewStore(tmp_path / "views.sqlite", SCORE) as store:
        with pytest.raises(DataError):
            store.put_many({b"a": VIEWS, (1,): VIEWS})  # type: ignore[dict-item]
        assert store.writers() == []
        store.put_many({b"a": VIEWS})
        assert store.writers() == [WriterCount(SCORE, 1)]


def _open_and_put(path: Path, writer: Writer, barrier: Barrier) -> None:
    barrier.wait()
    with ViewStore(path, writer) as store:
        store.put_many({writer.fingerprint[:4].encode(): VIEWS})


def test_two_processes_migrate_one_store(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    old_store(path, {b"old": VIEWS})
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    others = [
        context.Process(target=_open_and_put, args=(path, w, barrier)) for w in (SCORE, TFIDF)
    ]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    with ViewStore(path) as store:
        assert {count.writer for count in store.writers()} == {None, SCORE, TFIDF}


# ---------------------------------------------------------------- removing
def test_only_views_of_given_histories_are_not_others(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    keys = {h: {w.fingerprint: view_key(w.fingerprint, h) for w in (TFIDF, LLM)} for h in HISTORIES}
    for writer in (TFIDF, LLM):
        with ViewStore(path, writer) as store:
            store.put_many({keys[h][writer.fingerprint]: VIEWS for h in HISTORIES})
    unknown = view_key("nobody", HISTORIES[0])
    with ViewStore(path) as store:
        store.put_many({unknown: VIEWS})
        assert store.others(HISTORIES) == {unknown}
        staying, gone = HISTORIES[:1], HISTORIES[1]
        assert store.others(staying) == {unknown, *keys[gone].values()}


def test_removed_views_are_in_no_file_of_the_store_any_more(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    secret = UserViews(tuple(range(70_000, 70_040)), (1,), (2,))
    blob = np.asarray(secret.future, dtype="<i4").tobytes()
    key, other = view_key("w", [1, 2]), view_key("w", [3])

    def on_disk(what: bytes) -> bool:
        return any(what in file.read_bytes() for file in tmp_path.iterdir())

    with ViewStore(path, TFIDF) as store:
        store.put_many({key: secret, other: VIEWS})
    assert on_disk(blob)
    with ViewStore(path) as store:
        store.remove([key])
        assert not on_disk(blob)
        assert not on_disk(key)
        assert store.get_many([key, other]) == {other: VIEWS}
        store.remove([key])  # again: nothing happens
        assert len(store) == 1


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    store = ViewStore(tmp_path / "views.sqlite")
    store.close()
    for use in (lambda: store.others([]), lambda: store.remove([b"a"])):
        with pytest.raises(DataError, match="cannot be used"):
            use()


# ---------------------------------------------------------------- views that are kept by name
FROZEN = Writer(f"{BY_CONTENT}{'a' * 64}", "llm", "smollm2", "score", "films seen", "0.2.0")
SMALL = Catalog(tuple("abcdefghi"), tuple(f"title {c}" for c in "abcdefghi"))
GROWN = Catalog(("new", *SMALL.item_ids), ("one more", *SMALL.titles))


def by_name(path: Path, catalog: Catalog, writer: Writer | None = FROZEN) -> ViewStore:
    return ViewStore(path, writer, ItemNames(catalog))


def test_views_by_name_are_found_in_a_catalog_with_other_indices(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    with by_name(path, SMALL) as store:
        key = store.key(FROZEN.fingerprint, [1, 2, 3])
        store.put_many({key: VIEWS})
        assert store.get_many([key]) == {key: VIEWS}
    with by_name(path, GROWN) as store:
        assert store.key(FROZEN.fingerprint, [2, 3, 4]) == key
        assert store.key(FROZEN.fingerprint, [1, 2, 3]) != key
        assert store.get_many([key]) == {key: UserViews((5, 6), (8, 9, 10), (2, 2, 3))}
        assert store.writers() == [WriterCount(FROZEN, 1)]


def test_a_changed_title_is_another_item(tmp_path: Path) -> None:
    titles = ("another title", *SMALL.titles[1:])
    with by_name(tmp_path / "views.sqlite", SMALL) as store:
        key = store.key(FROZEN.fingerprint, [1, 2, 3])
    with by_name(tmp_path / "views.sqlite", Catalog(SMALL.item_ids, titles)) as store:
        assert store.key(FROZEN.fingerprint, [1, 2, 3]) != key


def test_views_with_an_item_that_is_gone_are_not_found_and_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    fewer = Catalog(SMALL.item_ids[:8], SMALL.titles[:8])  # without item 9
    with by_name(path, SMALL) as store:
        key, other = (store.key(FROZEN.fingerprint, history) for history in ([1, 2], [3]))
        store.put_many({key: VIEWS, other: UserViews((1,), (2,), (3,))})
    new = UserViews((4,), (5, 6), (7, 8))
    with by_name(path, fewer) as store:
        store.put_many({key: new})  # not looked for before: the first value stays
        assert store.get_many([key, other]).keys() == {other}
        store.put_many({key: new, other: new})
        assert store.get_many([key, other]) == {key: new, other: UserViews((1,), (2,), (3,))}
    with by_name(path, SMALL) as store:
        assert store.get_many([key]) == {key: new}


def test_without_names_they_are_neither_found_nor_stored(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    with by_name(path, SMALL) as store:
        key = store.key(FROZEN.fingerprint, [1, 2])
        store.put_many({key: VIEWS})
    with ViewStore(path, FROZEN) as store:
        assert store.get_many([key]) == {}
        for use in (lambda: store.put_many({key: VIEWS}), lambda: store.key("items:x", [1])):
            with pytest.raises(ValueError, match="found no names"):
                use()
        assert store.others([[1, 2]]) == {key}  # nobody can say of which history they are


def test_what_is_no_name_is_damage(tmp_path: Path) -> None:
    with by_name(tmp_path / "views.sqlite", SMALL) as store:
        key = store.key(FROZEN.fingerprint, [1, 2])
        store.put_many({key: VIEWS})
        with sqlite3.connect(tmp_path / "views.sqlite") as other:
            other.execute("UPDATE views SET future = x'0011'")
        other.close()
        with pytest.raises(DataError, match=r"cannot be used .*delete it"):
            store.get_many([key])


def test_both_kinds_of_views_are_told_from_others(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    keys = {}
    for writer in (TFIDF, FROZEN):
        with by_name(path, SMALL, writer) as store:
            keys[writer] = [store.key(writer.fingerprint, history) for history in HISTORIES]
            store.put_many(dict.fromkeys(keys[writer], VIEWS))
    with by_name(path, SMALL, None) as store:
        assert store.others(HISTORIES) == set()
        assert store.others(HISTORIES[:1]) == {keys[TFIDF][1], keys[FROZEN][1]}
        assert store.not_by(FROZEN.fingerprint) == set(keys[TFIDF])
        assert store.not_by("nobody") == {*keys[TFIDF], *keys[FROZEN]}
        store.put_many({b"unknown": VIEWS})
        assert store.not_by(TFIDF.fingerprint) == {*keys[FROZEN], b"unknown"}
