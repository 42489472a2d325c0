"""Views on disk, keyed by content: what was written once is never written again.

SQLite in WAL mode: readers never block, writers wait for each other, a killed process loses at most
the transaction it was in. The key covers everything a view depends on, so a stale view cannot be
found: another model, prompt, catalog or history simply is another key.

Beside every view stands who wrote it. Stores of before that have views whose writer is not known;
it is noted as soon as the views are asked for under that writer's fingerprint.
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
from lumos_core.views.provenance import Writer
from lumos_core.views.view import UserViews

_LOCK_SECONDS = 60.0  # how long a writer waits for another process's transaction
_KEYS_PER_QUERY = 500  # SQLite's default limit of variables is 999 in old builds
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
    """What a store has of one writer."""

    writer: Writer | None
    """None: written before stores noted it."""
    views: int
    """Histories whose views are there."""


def view_key(fingerprint: str, history: Sequence[int]) -> bytes:
    """SHA-256 (32 bytes) of a writer's fingerprint and a history of catalog indices."""
    digest = hashlib.sha256(fingerprint.encode())
    digest.update(b"\0")
    digest.update(np.asarray(history, dtype="<i8").tobytes())
    return digest.digest()


class ViewStore:
    """The views of many histories in one SQLite file.

    Args:
        path: file in a node's state folder; both are made, for this user alone, if missing.
        writer: noted beside what is put in, and beside what is found whose writer is not known.

    Raises:
        DataError: the file exists but is no usable SQLite database.
    """

    def __init__(self, path: Path, writer: Writer | None = None) -> None:
        self.path, self._writer = path, writer
        self._writer_id: int | None = None
        private_folder(path.parent)
        with suppress(FileExistsError), open(path, "xb", opener=owner_only):
            pass  # SQLite fills an empty file, and gives its mode to those beside it
        try:
            # isolation_level=None: transactions are explicit, see put_many
            self._db = sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA synchronous=NORMAL")
            # the change to WAL is refused at once, not waited for, while another process opens too
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

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, UserViews]:
        """Those of the keys that are stored."""
        wanted = list(dict.fromkeys(keys))
        found: dict[bytes, UserViews] = {}
        try:
            for start in range(0, len(wanted), _KEYS_PER_QUERY):
                chunk = wanted[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(chunk))
                query = f"SELECT {_VIEWS}, writer FROM views WHERE key IN ({marks})"
                unknown = []
                for key, *views, writer in self._db.execute(query, chunk):
                    found[key] = UserViews(*map(_unpack, views))
                    if writer is None:
                        unknown.append(key)
                self._note(unknown)
        except (sqlite3.Error, ValueError) as error:
            raise self._unusable(error) from error
        return found

    def put_many(self, views: Mapping[bytes, UserViews]) -> None:
        """Store all or, if interrupted, none; a key already there keeps its first value."""
        rows = [(key, *map(_pack, value)) for key, value in views.items()]
        try:
            with self._transaction():
                writer = self._writer_row()
                self._db.executemany(
                    f"INSERT OR IGNORE INTO views ({_VIEWS}, writer) VALUES (?, ?, ?, ?, ?)",
                    [(*row, writer) for row in rows],
                )
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def writers(self) -> list[WriterCount]:
        """Whose views are here, in the order in which they began; unknown ones first."""
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
        """Add what stores of before lack; their views stay as they are."""
        self._db.execute(_WRITERS)
        columns = [row[1] for row in self._db.execute("PRAGMA table_info(views)")]
        if "writer" not in columns:
            self._db.execute("ALTER TABLE views ADD COLUMN writer INTEGER REFERENCES writers (id)")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE takes the write lock first: a lock taken halfway could not be waited for
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            self._writer_id = None  # its row may be gone
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
        """Say who wrote views: keys are digests of the writer's fingerprint, too."""
        if keys and self._writer is not None:
            marks = ",".join("?" * len(keys))
            with self._transaction():
                self._db.execute(
                    f"UPDATE views SET writer = ? WHERE key IN ({marks})",
                    (self._writer_row(), *keys),
                )

    def _unusable(self, error: Exception) -> DataError:
        return DataError(
            f"view store {self.path} cannot be used ({error}); "
            "stop other processes that use it, or delete it: its views will be written again"
        )


def _pack(items: Sequence[int]) -> bytes:
    return np.asarray(items, dtype="<i4").tobytes()


def _unpack(blob: bytes) -> tuple[int, ...]:
    return tuple(np.frombuffer(blob, dtype="<i4").tolist())
