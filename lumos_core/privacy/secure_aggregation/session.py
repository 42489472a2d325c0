"""What a node remembers between two steps, since each is a process of its own."""

import hashlib
from typing import Literal

from pydantic import ConfigDict, Field

from lumos_core.privacy.secure_aggregation.packets import Roster
from lumos_core.safe_files import JsonFile

Stage = Literal["opened", "shared", "uploaded", "closed"]


class Session(JsonFile):
    """One attempt at one round. All but the first five fields are empty once it is closed.

    Its file holds secrets: an error about it must not quote what stands there.

    Attributes:
        run: the run's id.
        round: 1, 2, …
        attempt: grows from one attempt at the round to the next.
        stage: the last step that the node has taken.
        name: the node's own.
        seal_key: private key for sealing shares.
        mask_key: private key for pairwise masks.
        seed: of the node's own mask.
        roster: hex digest of the roster it has seen.
        names: of everybody in the roster, in order.
        seals: public keys for sealing, by name.
        masks: public keys for pairwise masks, by name.
        seed_shares: by name, the share of that node's seed which this node holds.
        key_shares: likewise, of its mask key.
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
        """Without secrets: what is left to recognise a replay by."""
        return Session(
            run=self.run, round=self.round, attempt=self.attempt, stage="closed", name=self.name
        )

    def with_share(self, owner: str, seed_share: bytes, key_share: bytes) -> "Session":
        """With the shares that ``owner`` gave this node."""
        shares = {
            "seed_shares": {**self.seed_shares, owner: seed_share},
            "key_shares": {**self.key_shares, owner: key_share},
        }
        return self.model_copy(update=shares)


def roster_digest(round_: int, roster: Roster) -> str:
    """What a share is bound to, so that nodes that were shown different rosters notice."""
    digest = hashlib.sha256(f"lumos-secagg {round_} {roster.attempt}".encode())
    for name, seal, mask in zip(roster.names, roster.seals, roster.masks, strict=True):
        for part in (name.encode(), seal, mask):
            digest.update(len(part).to_bytes(4, "little") + part)
    return digest.hexdigest()
