"""Views on disk, keyed by content, so that no view is written twice.

SQLite in WAL mode: readers never block, writers wait for each other, a killed process loses at most
the transaction it was in. The key covers everything a view depends on: another model, prompt,
catalog or history gives another key, so a stale view cannot be found.

Items are kept as catalog indices where the writer depends on the whole catalog, and by name
(`item_names`) where it does not. Views by name are found again in a catalog that has grown, as long
as it has all of their items; otherwise they are written again.

The store notes the writer of every view. Older versions did not: in their stores the writer of a
view is unknown until the view is read under that writer's fingerprint, and is noted then.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from lumos_core.errors import DataError
from lumos_core.safe_files import HeldError, exclusive, owner_only, private_folder
from lumos_core.views.item_names import ItemNames
from lumos_core.views.provenance import Writer
from lumos_core.views.view import BY_CONTENT, UserViews

_LOCK_SECONDS = 60.0  # how long a writer waits for another process's transaction
_KEYS_PER_QUERY = 500  # SQLite's default limit of variables is 999 in old builds
_BY_NAME = b"\x01"  # begins the keys, then 33 bytes long, of views that are kept by name
_VIEWS = "key, future, paraphrase, counterfactual"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS views (
    key BLOB PRIMARY KEY,
    future BLOB NOT NULL,
    paraphrase BLOB NOT NULL,
    counterfactual BLOB NOT NULL
) WITHOUT ROWID
"""
_WRITERS = """
CREATE TABLE IF NOT EXISTS writers (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    model TEXT NOT NULL,
    mode TEXT NOT NULL,
    noun TEXT NOT NULL,
    version TEXT NOT NULL
)
"""


class WriterCount(NamedTuple):
    """How many views of one writer a store holds."""

    writer: Writer | None
    """None: the views were stored before stores noted their writers."""
    views: int
    """Number of histories whose views are stored."""


def view_key(fingerprint: str, history: Sequence[int], items: ItemNames | None = None) -> bytes:
    """What the views of a history by a writer are found by: a SHA-256, behind a mark if the views
    are kept by name.

    Args:
        fingerprint: of the writer.
        history: catalog indices.
        items: of the catalog; needed where the writer does not depend on the whole catalog.
    """
    digest = hashlib.sha256(fingerprint.encode())
    digest.update(b"\0")
    if not fingerprint.startswith(BY_CONTENT):
        digest.update(np.asarray(history, dtype="<i8").tobytes())
        return digest.digest()
    if items is None:
        raise ValueError("views of this writer are found by the names of items, found no names")
    digest.update(items.of(history))
    return _BY_NAME + digest.digest()


class ViewStore:
    """The views of many histories in one SQLite file.

    Args:
        path: file in a node's state folder; both are created if missing, with permissions for
            this user alone.
        writer: noted for views that are stored, and for views that are found and have no note.
        items: of the catalog; without them no views that are kept by name are found.

    Raises:
        DataError: the file exists but is not a usable SQLite database.
    """

    def __init__(
        self, path: Path, writer: Writer | None = None, items: ItemNames | None = None
    ) -> None:
        self.path, self._writer, self._items = path, writer, items
        self._writer_id: int | None = None
        self._stale: set[bytes] = set()  # keys of views with items that the catalog lacks
        private_folder(path.parent)
        with suppress(FileExistsError), open(path, "xb", opener=owner_only):
            pass  # SQLite fills an empty file, and creates its side files with the same mode
        try:
            # isolation_level=None: transactions are explicit, see put_many
            self._db = sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA synchronous=NORMAL")
            # if another process opens the file now, SQLite does not wait but refuses the change to
            # WAL at once; the lock makes this process wait
            with exclusive(path.with_name(path.name + ".lock"), _LOCK_SECONDS):
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute(_SCHEMA)
                self._migrate()
        except (sqlite3.Error, HeldError) as error:
            raise self._unusable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def __len__(self) -> int:
        try:
            return int(self._db.execute("SELECT count(*) FROM views").fetchone()[0])
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def key(self, fingerprint: str, history: Sequence[int]) -> bytes:
        """:func:`view_key` in this store's catalog."""
        return view_key(fingerprint, history, self._items)

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, UserViews]:
        """The views of those keys that are stored, and whose items are all in the catalog."""
        wanted = list(dict.fromkeys(keys))
        found: dict[bytes, UserViews] = {}
        try:
            for start in range(0, len(wanted), _KEYS_PER_QUERY):
                chunk = wanted[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(chunk))
                query = f"SELECT {_VIEWS}, writer FROM views WHERE key IN ({marks})"
                unknown = []
                for key, *views, writer in self._db.execute(query, chunk):
                    unpacked = self._unpack(key, views)
                    if unpacked is not None:
                        found[key] = unpacked
                    if writer is None:
                        unknown.append(key)
                self._note(unknown)
        except (sqlite3.Error, ValueError) as error:
            raise self._unusable(error) from error
        return found

    def put_many(self, views: Mapping[bytes, UserViews]) -> None:
        """Store all views or, if interrupted, none; a stored key keeps its first value, unless
        :meth:`get_many` found that the catalog lacks some of its items."""
        rows = [(key, *self._pack(key, value)) for key, value in views.items()]
        stale = [(key,) for key in self._stale & views.keys()]
        try:
            with self._transaction():
                self._db.executemany("DELETE FROM views WHERE key = ?", stale)
                writer = self._writer_row()
                self._db.executemany(
                    f"INSERT OR IGNORE INTO views ({_VIEWS}, writer) VALUES (?, ?, ?, ?, ?)",
                    [(*row, writer) for row in rows],
                )
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        self._stale -= views.keys()

    def others(self, histories: Iterable[Sequence[int]]) -> set[bytes]:
        """Keys of views that are of none of these histories, whoever wrote them. Views whose writer
        is unknown are among them: nobody can say of which history they are. So are views by name if
        the store was opened without names.

        Args:
            histories: catalog indices, chronological.
        """
        try:
            writers = [row[0] for row in self._db.execute("SELECT fingerprint FROM writers")]
            stored = {row[0] for row in self._db.execute("SELECT key FROM views")}
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        known = {tuple(history) for history in histories}
        return stored - {
            self.key(writer, history)
            for writer in writers
            if self._items is not None or not writer.startswith(BY_CONTENT)
            for history in known
        }

    def not_by(self, fingerprint: str) -> set[bytes]:
        """Keys of views that this writer did not write, as far as the store knows."""
        query = (
            "SELECT key FROM views LEFT JOIN writers ON writers.id = views.writer"
            " WHERE writers.fingerprint IS NOT ?"
        )
        try:
            return {row[0] for row in self._db.execute(query, (fingerprint,))}
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def remove(self, keys: Iterable[bytes]) -> None:
        """Delete views, all or none, and overwrite what the file still holds of them."""
        try:
            self._db.execute("PRAGMA secure_delete=ON")
            with self._transaction():
                self._db.executemany("DELETE FROM views WHERE key = ?", [(key,) for key in keys])
            self._db.execute("VACUUM")  # also pages that an older version freed
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def writers(self) -> list[WriterCount]:
        """How many views each writer has, in the order of first use; unknown writers first."""
        columns = ", ".join(f"writers.{name}" for name in Writer._fields)
        query = (
            f"SELECT {columns}, count(*) FROM views LEFT JOIN writers ON writers.id = views.writer"
            " GROUP BY views.writer ORDER BY views.writer"
        )
        try:
            rows = self._db.execute(query).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return [
            WriterCount(None if row[0] is None else Writer(*row[:-1]), int(row[-1])) for row in rows
        ]

    def _migrate(self) -> None:
        """Add what stores of older versions lack; their views stay unchanged."""
        self._db.execute(_WRITERS)
        columns = [row[1] for row in self._db.execute("PRAGMA table_info(views)")]
        if "writer" not in columns:
            self._db.execute("ALTER TABLE views ADD COLUMN writer INTEGER REFERENCES writers (id)")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE takes the write lock at the start: SQLite could not wait for one taken later
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            self._writer_id = None  # the rollback may have removed the writer's row
            raise
        self._db.execute("COMMIT")

    def _writer_row(self) -> int | None:
        """The writer's number in this store; within a transaction."""
        if self._writer is not None and self._writer_id is None:
            names, marks = ", ".join(Writer._fields), ", ".join("?" * len(Writer._fields))
            self._db.execute(
                f"INSERT OR IGNORE INTO writers ({names}) VALUES ({marks})", self._writer
            )
            query = "SELECT id FROM writers WHERE fingerprint = ?"
            (self._writer_id,) = self._db.execute(query, (self._writer.fingerprint,)).fetchone()
        return self._writer_id

    def _note(self, keys: Sequence[bytes]) -> None:
        """Note this writer for stored views: its fingerprint is part of their keys, so it wrote
        them."""
        if keys and self._writer is not None:
            marks = ",".join("?" * len(keys))
            with self._transaction():
                self._db.execute(
                    f"UPDATE views SET writer = ? WHERE key IN ({marks})",
                    (self._writer_row(), *keys),
                )

    def _pack(self, key: bytes, views: UserViews) -> list[bytes]:
        if not _is_by_name(key):
            return [np.asarray(view, dtype="<i4").tobytes() for view in views]
        if self._items is None:
            raise ValueError("views of this writer are kept by the names of items, found no names")
        return [self._items.of(view) for view in views]

    def _unpack(self, key: bytes, blobs: Sequence[bytes]) -> UserViews | None:
        """Views as they were packed; None if the catalog lacks an item."""
        if not _is_by_name(key):
            return UserViews(*(_indices(blob) for blob in blobs))
        if self._items is None:
            return None
        views = [self._items.items(blob) for blob in blobs]
        known = [view for view in views if view is not None]
        if len(known) < len(views):
            self._stale.add(key)
            return None
        return UserViews(*known)

    def _unusable(self, error: Exception) -> DataError:
        return DataError(
            f"view store {self.path} cannot be used ({error}); "
            "stop other processes that use it, or delete it: its views will be written again"
        )


def _is_by_name(key: bytes) -> bool:
    return len(key) == 33 and key.startswith(_BY_NAME)


def _indices(blob: bytes) -> tuple[int, ...]:
    return tuple(np.frombuffer(blob, dtype="<i4").tolist())
