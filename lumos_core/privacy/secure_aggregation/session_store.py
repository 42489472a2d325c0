"""The store of a node's sessions: in memory, or in files that only the node's user can read."""

import re
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from lumos_core.errors import DataError, NewerFileError
from lumos_core.privacy.secure_aggregation.session import Session
from lumos_core.safe_files import exclusive, private_folder

FOLDER = "secagg"
"""Its name in a node's state folder."""
FORGET_SECONDS = 24 * 3600.0  # then sessions of other runs, maybe stopped in a round, are deleted
_LOCK_SECONDS = 60.0


class Store(Protocol):
    """At most one session per run: a new one replaces the old one and its secrets."""

    def locked(self) -> AbstractContextManager[object]:
        """Locks out other processes of this node, so that no step can be taken twice."""
        ...

    def load(self, run: str) -> Session | None: ...

    def save(self, session: Session) -> None: ...


class MemoryStore:
    """Sessions in memory, for nodes that live as long as the run."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def locked(self) -> AbstractContextManager[object]:
        return nullcontext()

    def load(self, run: str) -> Session | None:
        return self._sessions.get(run)

    def save(self, session: Session) -> None:
        self._sessions[session.run] = session


class FileStore:
    """Sessions in files, for nodes that start a process for every step.

    Args:
        state: the node's state folder; sessions are stored in ``secagg/<run>.json``, mode 600.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER

    def locked(self) -> AbstractContextManager[object]:
        private_folder(self._folder.parent)
        private_folder(self._folder)
        return exclusive(self._folder / "lock", _LOCK_SECONDS, mode=0o600)

    def load(self, run: str) -> Session | None:
        """Raises OSError if the file cannot be read or is damaged, NewerFileError if a newer LUMOS
        wrote it."""
        path = self._path(run)
        try:
            return Session.read_if_there(path)
        except NewerFileError:
            raise
        except DataError:  # its text may quote a secret
            raise OSError(f"{path}: not a session as LUMOS writes it; remove the file") from None

    def save(self, session: Session) -> None:
        path = self._path(session.run)
        session.write(path, mode=0o600)
        self._forget_others(path)

    def _path(self, run: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", run):
            raise OSError(f"{run[:80]!r} is not the id of a run")
        return self._folder / f"{run}.json"

    def _forget_others(self, kept: Path) -> None:
        # The second pattern finds hidden temporary files of processes that were killed in `save`.
        for path in (*self._folder.glob("*.json"), *self._folder.glob(".*.json.*")):
            try:
                if path != kept and path.stat().st_mtime < time.time() - FORGET_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # another process was faster
                continue
