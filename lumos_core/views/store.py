"""Views on disk, keyed by content: what was written once is never written again.

SQLite in WAL mode: readers never block, writers wait for each other, a killed process loses at most
the transaction it was in. The key covers everything a view depends on, so a stale view cannot be
found: another model, prompt, catalog or history simply is another key.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from filelock import FileLock, Timeout

from lumos_core.errors import DataError
from lumos_core.files import owner_only, private_folder
from lumos_core.views.types import UserViews

_LOCK_SECONDS = 60.0  # how long a writer waits for another process's transaction
_KEYS_PER_QUERY = 500  # SQLite's default limit of variables is 999 in old builds
_SCHEMA = """
CREATE TABLE IF NOT EXISTS views (
    key BLOB PRIMARY KEY,
    future BLOB NOT NULL,
    paraphrase BLOB NOT NULL,
    counterfactual BLOB NOT NULL
) WITHOUT ROWID
"""


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

    Raises:
        DataError: the file exists but is no usable SQLite database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        private_folder(path.parent)
        with suppress(FileExistsError), open(path, "xb", opener=owner_only):
            pass  # SQLite fills an empty file, and gives its mode to those beside it
        try:
            # isolation_level=None: transactions are explicit, see put_many
            self._db = sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA synchronous=NORMAL")
            # the change to WAL is refused at once, not waited for, while another process opens too
            with FileLock(path.with_name(path.name + ".lock"), timeout=_LOCK_SECONDS):
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute(_SCHEMA)
        except (sqlite3.Error, Timeout) as error:
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
                rows = self._db.execute(f"SELECT * FROM views WHERE key IN ({marks})", chunk)
                for key, *views in rows:
                    found[key] = UserViews(*map(_unpack, views))
        except (sqlite3.Error, ValueError) as error:
            raise self._unusable(error) from error
        return found

    def put_many(self, views: Mapping[bytes, UserViews]) -> None:
        """Store all or, if interrupted, none; a key already there keeps its first value."""
        rows = [(key, *map(_pack, value)) for key, value in views.items()]
        try:
            # IMMEDIATE takes the write lock first: a lock taken halfway could not be waited for
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR IGNORE INTO views VALUES (?, ?, ?, ?)", rows)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> DataError:
        return DataError(
            f"view store {self.path} cannot be used ({error}); "
            "stop other processes that use it, or delete it: its views will be written again"
        )


def _pack(items: Sequence[int]) -> bytes:
    return np.asarray(items, dtype="<i4").tobytes()


def _unpack(blob: bytes) -> tuple[int, ...]:
    return tuple(np.frombuffer(blob, dtype="<i4").tolist())
