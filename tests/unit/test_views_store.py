"""The view store: nothing lost, nothing half written, two processes at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from lumos_core.errors import DataError
from lumos_core.views.store import ViewStore, view_key
from lumos_core.views.types import UserViews

VIEWS = UserViews((4, 5), (7, 8, 9), (1, 1, 2))


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
from lumos_core.views.store import ViewStore
from lumos_core.views.types import UserViews
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
