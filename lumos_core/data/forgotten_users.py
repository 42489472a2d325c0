"""The users whom a node was told to forget, so that rows that arrive later do not bring them back.

``forgotten.json`` holds salted digests, no ids. Whoever has the file can still test whether a known
id is in it, so it stays in the state folder, which only the node's owner can read.
"""

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field

from lumos_core.data.rewriting import changing_data
from lumos_core.errors import DataError
from lumos_core.safe_files import JsonFile

FORGOTTEN_USERS = "forgotten.json"


class ForgottenUsers(JsonFile):
    """``forgotten.json``.

    Attributes:
        users: by salt (random hex digits): SHA-256 of salt and id.

    >>> known = ForgottenUsers().adding("5a17", [digest("5a17", "ann")])
    >>> known.among(["ann", "bob"]), known.without("ann").among(["ann", "bob"])
    ({'ann'}, set())
    """

    repair: ClassVar[str] = (
        "restore it from a backup, or delete it: then users who were forgotten may come back"
    )

    users: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @classmethod
    def of_node(cls, state: Path) -> Self:
        """What a node's state folder says; nobody without a file.

        Raises:
            DataError: the file is damaged. It is not taken for empty: users would come back.
            NewerFileError: a newer LUMOS wrote it.
        """
        return cls.read_if_there(state / FORGOTTEN_USERS) or cls()

    def among(self, ids: Iterable[str]) -> set[str]:
        """Those of these ids that are forgotten."""
        known = {salt: set(digests) for salt, digests in self.users.items()}
        return {
            user
            for user in ids
            if any(digest(salt, user) in digests for salt, digests in known.items())
        }

    def adding(self, salt: str, digests: Collection[str]) -> Self:
        """The same with more users, as digests with this salt."""
        all_of_salt = tuple(sorted({*self.users.get(salt, ()), *digests}))
        return self.model_copy(update={"users": {**self.users, salt: all_of_salt}})

    def without(self, user: str) -> Self:
        """The same without a user, who may come back."""
        left = {
            salt: tuple(d for d in digests if d != digest(salt, user))
            for salt, digests in self.users.items()
        }
        return self.model_copy(update={"users": {s: d for s, d in left.items() if d}})


def digest(salt: str, user: str) -> str:
    """SHA-256 (hex) of a user's id with a salt."""
    return hashlib.sha256(f"{salt} {user}".encode()).hexdigest()


def readmit_users(state: Path, ids: Iterable[str]) -> list[str]:
    """Take users off the list of a node.

    Returns:
        Those who were on it.

    Raises:
        DataError: one of them is not on it, or the list is damaged.
    """
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        return []
    with changing_data(state):
        known = ForgottenUsers.of_node(state)
        if others := sorted(set(wanted) - known.among(wanted)):
            raise DataError(
                f"{state / FORGOTTEN_USERS}: has no user {', '.join(map(repr, others))}; only a "
                "user whom 'lumos node forget' has removed needs --readmit"
            )
        for user in wanted:
            known = known.without(user)
        known.write(state / FORGOTTEN_USERS, 0o600)
    return wanted
