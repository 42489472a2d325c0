"""The note that users are being forgotten, which outlives an interruption.

Apart from :mod:`lumos_core.deployment.forgetting`, so that a node's supervisor can look at it
without loading what reads data.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Self

from lumos_core.data.forgotten_users import digest
from lumos_core.safe_files import JsonFile

if TYPE_CHECKING:  # it imports polars
    from lumos_core.data.removed_users import Removal

UNFINISHED = "forgetting.json"


class Unfinished(JsonFile):
    """``forgetting.json``: users who are being forgotten. It is there from just before the first
    thing is removed until everything is.

    Attributes:
        salt: hex digits, random.
        users: SHA-256 of salt and id.
        interactions: how many they had.
    """

    salt: str
    users: tuple[str, ...] = ()
    interactions: int = 0

    @classmethod
    def of_node(cls, state: Path) -> Self | None:
        """What a node's state folder says; None if nothing is unfinished.

        Raises:
            NewerFileError: a newer LUMOS wrote it.
        """
        return cls.read_if_sound(state / UNFINISHED)

    def has(self, user: str) -> bool:
        """Whether this user is among them."""
        return self._digest(user) in self.users

    def adding(self, removal: "Removal") -> Self:
        """The same with those of a removal whom it does not have yet."""
        new = [user for user in sorted(removal.found) if not self.has(user)]
        rows = int(removal.table.frame["user_id"].is_in(new).sum())
        users = (*self.users, *map(self._digest, new))
        changes = {"users": users, "interactions": self.interactions + rows}
        return self.model_copy(update=changes)

    def _digest(self, user: str) -> str:
        return digest(self.salt, user)
