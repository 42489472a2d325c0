"""A session: what a node remembers between two steps, because each step is a separate process."""

import hashlib
from typing import Literal

from pydantic import ConfigDict, Field

from lumos_core.privacy.secure_aggregation.packets import Roster
from lumos_core.safe_files import JsonFile

Stage = Literal["opened", "shared", "uploaded", "closed"]


class Session(JsonFile):
    """One attempt at one round. Once it is closed, all but the first five fields are empty.

    Its file holds secrets: an error about the file must not quote its content.

    Attributes:
        run: the run's id.
        round: 1, 2, …
        attempt: number of the attempt at the round; it grows with each one.
        stage: the last step that the node has taken.
        name: name of this node.
        seal_key: private key for sealing shares.
        mask_key: private key for pairwise masks.
        seed: seed of the node's own mask.
        roster: hex digest of the roster that the node has received.
        names: names of all nodes in the roster, in order.
        seals: public keys for sealing, by name.
        masks: public keys for pairwise masks, by name.
        seed_shares: by name, the share of that node's seed which this node holds.
        key_shares: by name, the share of that node's mask key which this node holds.
    """

    model_config = ConfigDict(extra="forbid")

    run: str
    round: int
    attempt: int
    stage: Stage
    name: str
    seal_key: bytes = b""
    mask_key: bytes = b""
    seed: bytes = b""
    roster: str = ""
    names: tuple[str, ...] = ()
    seals: dict[str, bytes] = Field(default_factory=dict)
    masks: dict[str, bytes] = Field(default_factory=dict)
    seed_shares: dict[str, bytes] = Field(default_factory=dict)
    key_shares: dict[str, bytes] = Field(default_factory=dict)

    @property
    def number(self) -> tuple[int, int]:
        """Round and attempt: grows from session to session."""
        return self.round, self.attempt

    def closed(self) -> "Session":
        """The session without secrets; what is left is enough to recognise a replay."""
        return Session(
            run=self.run, round=self.round, attempt=self.attempt, stage="closed", name=self.name
        )

    def with_share(self, owner: str, seed_share: bytes, key_share: bytes) -> "Session":
        """The session with the shares that ``owner`` gave this node."""
        shares = {
            "seed_shares": {**self.seed_shares, owner: seed_share},
            "key_shares": {**self.key_shares, owner: key_share},
        }
        return self.model_copy(update=shares)


def roster_digest(round_: int, roster: Roster) -> str:
    """The digest that every share is bound to: nodes that were sent different rosters notice it."""
    digest = hashlib.sha256(f"lumos-secagg {round_} {roster.attempt}".encode())
    for name, seal, mask in zip(roster.names, roster.seals, roster.masks, strict=True):
        for part in (name.encode(), seal, mask):
            digest.update(len(part).to_bytes(4, "little") + part)
    return digest.hexdigest()
