"""A node that its owner has paused: it stays connected and refuses every message, until it is
resumed. A file in its state folder says so, so a pause outlasts restarts of node and machine.
"""

import time
from pathlib import Path
from typing import Self

from lumos_core.errors import DataError, LumosError, reason_of
from lumos_core.federation.owner_floor import BelowFloorError
from lumos_core.safe_files import JsonFile, private_folder

PAUSED = "paused.json"  # in the state folder


class PausedError(BelowFloorError):
    """The node's owner has paused it."""


class Pause(JsonFile):
    """The file of a pause.

    Attributes:
        since: when it began, in seconds since 1970.
    """

    since: float = 0.0

    @classmethod
    def of_node(cls, state: Path) -> Self | None:
        """A node's pause; None if it is not paused. A damaged file, or one of a newer LUMOS, is a
        pause as well: only its owner ends one."""
        path = state / PAUSED
        if not path.exists():
            return None
        try:
            return cls.read(path)
        except LumosError:
            return cls()


def pause(state: Path) -> bool:
    """Pause a node; False if it is paused already.

    Raises:
        DataError: the state folder cannot be written.
    """
    if (state / PAUSED).exists():
        return False
    try:
        private_folder(state)
        Pause(since=time.time()).write(state / PAUSED, 0o600)
    except OSError as error:
        raise _not_written(state, error) from error
    return True


def resume(state: Path) -> bool:
    """End a pause; False if there is none.

    Raises:
        DataError: the state folder cannot be written.
    """
    try:
        (state / PAUSED).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _not_written(state, error) from error
    return True


def check_pause(state: Path) -> None:
    """Raises PausedError if the node is paused."""
    if Pause.of_node(state) is not None:
        raise PausedError({
            "paused": "refused: this node is paused by its owner; 'lumos node resume' lets it take "
            "part again"
        })  # fmt: skip


def _not_written(state: Path, error: OSError) -> DataError:
    return DataError(
        f"{state / PAUSED}: cannot be changed ({reason_of(error)}); the owner of the node's state "
        "folder must be able to write there"
    )
