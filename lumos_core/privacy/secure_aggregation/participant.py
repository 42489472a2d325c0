"""A node's side of a secure round: four steps, each taken once, each refused if it would say more
about anybody than the protocol allows.

What a node insists on, whatever the server says:

- at least ``min_nodes`` nodes (its owner's choice), and at least the threshold of those in the
  roster, at every step; the threshold is more than half;
- its own keys in the roster, nobody's keys twice, every share sealed for it by the named peer, for
  this very roster;
- one upload, and one answer at the end: for each node *either* a share of the seed of its own mask
  (its upload is in the sum) *or* one of its mask key (it is not), never both. The session's secrets
  are gone from the disk before that answer leaves;
- rounds and attempts that grow: nothing is replayed.
"""

import math
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.errors import RefusalError
from lumos_core.privacy.secure_aggregation import masks, packets
from lumos_core.privacy.secure_aggregation.packets import (
    Inbox,
    Keys,
    Open,
    Opened,
    Roster,
    Shares,
    Survivors,
    pack,
    unpack,
)
from lumos_core.privacy.secure_aggregation.primitives import CryptoError, Primitives
from lumos_core.privacy.secure_aggregation.session import Session, Stage, roster_digest
from lumos_core.privacy.secure_aggregation.session_store import Store
from lumos_core.wire.messages import Packet

if TYPE_CHECKING:  # they import torch, which only the upload needs
    from lumos_core.learning.parameters import Params
    from lumos_core.wire.reply_checks import Metrics

MIN_NODES = 3
"""Of two nodes in a sum each knows the other's part."""

Train = Callable[[], "tuple[Params, Metrics]"]
"""Trains; called once all checks are passed. The delta is float32, not encoded."""


def threshold(nodes: int, share: float) -> int:
    """How many of ``nodes`` must help to unmask a sum: at least ``share`` of them, and always more
    than half, so that two disjoint groups can never help with different sums."""
    return max(math.ceil(share * nodes - 1e-9), nodes // 2 + 1)


def capacity(bits: int) -> int:
    """How many nodes' values of so many bits can be added without an overflow."""
    return int(2 ** (32 - bits))


@dataclass(frozen=True)
class Participant:
    """One node's part in the secure rounds of one run.

    Args:
        name: the node's.
        run: the run's id; sessions of different runs do not mix.
        config: the run's configuration.
        primitives: the cryptography.
        store: where sessions are kept between two steps.
        min_nodes: the smallest sum that this node lets itself be part of.
    """

    name: str
    run: str
    config: RunConfig
    primitives: Primitives
    store: Store
    min_nodes: int = MIN_NODES

    def answer(self, round_: int, packet: Mapping[str, object]) -> Packet:
        """Steps 0, 1 and 3.

        Args:
            round_: of the instruction that brought the packet.

        Raises:
            RefusalError: the node does not take this step.
            ReplyError: the packet is malformed.
        """
        if not self.config.secure_aggregation:
            raise RefusalError("this run has secure-aggregation = false")
        stage = packets.stage_of(packet)
        with self.store.locked():
            if stage == Open.stage:
                return pack(self._open(round_, unpack(Open, packet)))
            if stage == Roster.stage:
                return pack(self._share(round_, unpack(Roster, packet)))
            if stage == Survivors.stage:
                return pack(self._unmask(round_, unpack(Survivors, packet)))
        raise RefusalError(f"there is no stage {stage[:40]!r}")

    def upload(
        self,
        round_: int,
        packet: Mapping[str, object],
        like: "Params",
        evaluated: bool,
        train: Train,
    ) -> np.ndarray:
        """Step 2: train and mask.

        Args:
            round_: of the instruction.
            packet: an :class:`~lumos_core.privacy.secure_aggregation.packets.Inbox`.
            like: the received model.
            evaluated: whether the received model is evaluated as well.
            train: does so.

        Returns:
            uint32 [``Encoding.size``].

        Raises:
            RefusalError: the node does not take this step.
            ReplyError: the packet is malformed.
            ModelError: training diverged.
        """
        if not self.config.secure_aggregation:
            raise RefusalError("this run has secure-aggregation = false")
        with self.store.locked():  # the step is taken before anything else can happen
            session = self._receive(round_, unpack(Inbox, packet))
            self.store.save(session)
        from lumos_core.privacy.secure_aggregation.encoding import Encoding

        encoding = Encoding.of(self.config, like, evaluated)
        delta, metrics = train()
        seed = (self.config.seed, round_, zlib.crc32(self.name.encode()), 2)
        vector = encoding.encode(delta, metrics, np.random.default_rng(seed))
        masks.add_own(vector, session.seed)
        masks.add_pairwise(vector, self.name, self._mask_keys(session))
        return vector

    # --- the steps

    def _open(self, round_: int, packet: Open) -> Keys:
        last = self.store.load(self.run)
        if last is not None and (round_, packet.attempt) <= last.number:
            raise RefusalError("this attempt, or a later one, was opened before: a replay")
        seal, mask = self.primitives.new_private_key(), self.primitives.new_private_key()
        session = Session(
            run=self.run,
            round=round_,
            attempt=packet.attempt,
            stage="opened",
            name=self.name,
            seal_key=seal,
            mask_key=mask,
        )
        self.store.save(session)
        public = self.primitives.public_key
        return Keys(packet.attempt, public(seal), public(mask))

    def _share(self, round_: int, packet: Roster) -> Shares:
        session = self._session(round_, packet.attempt, "opened")
        self._check_roster(session, packet)
        needed = threshold(len(packet.names), self.config.secagg_threshold)
        seed = os.urandom(masks.KEY_BYTES)
        seed_shares = self.primitives.split(seed, needed, len(packet.names))
        key_shares = self.primitives.split(session.mask_key, needed, len(packet.names))
        seen = {
            "stage": "shared",
            "seed": seed,
            "roster": roster_digest(round_, packet),
            "names": tuple(packet.names),
            "seals": dict(zip(packet.names, packet.seals, strict=True)),
            "masks": dict(zip(packet.names, packet.masks, strict=True)),
        }
        session = session.model_copy(update=seen)
        peers, sealed = [], []
        for peer, for_seed, for_key in zip(packet.names, seed_shares, key_shares, strict=True):
            if peer == self.name:
                session = session.with_share(self.name, for_seed, for_key)
                continue
            text = _letter(session, self.name, peer, for_seed, for_key)
            peers.append(peer)
            sealed.append(self.primitives.seal(self._seal_key(session, peer), text))
        self.store.save(session)
        return Shares(packet.attempt, peers, sealed)

    def _receive(self, round_: int, packet: Inbox) -> Session:
        session = self._session(round_, packet.attempt, "shared")
        if not set(packet.names) <= set(session.names) - {self.name}:
            raise RefusalError("shares of a node that is not in the roster")
        self._check_count(len(packet.names) + 1, session)
        for peer, sealed in zip(packet.names, packet.sealed, strict=True):
            try:
                text = self.primitives.unseal(self._seal_key(session, peer), sealed)
            except CryptoError:
                raise RefusalError(f"the shares of {peer} were tampered with") from None
            seed_share, key_share = self._open_letter(session, peer, text)
            session = session.with_share(peer, seed_share, key_share)
        return session.model_copy(update={"stage": "uploaded"})

    def _unmask(self, round_: int, packet: Survivors) -> Opened:
        session = self._session(round_, packet.attempt, "uploaded")
        sharing = set(session.seed_shares)  # everybody whose mask may be in an upload
        surviving = set(packet.names)
        if not surviving <= sharing:
            raise RefusalError("a survivor that has shared nothing")
        if self.name not in surviving:
            raise RefusalError("this node has uploaded, yet is not among the survivors")
        self._check_count(len(surviving), session)
        self.store.save(session.closed())  # before anything leaves, so that it leaves once
        names = sorted(sharing)
        shares = [
            session.seed_shares[n] if n in surviving else session.key_shares[n] for n in names
        ]
        return Opened(packet.attempt, names, shares)

    # --- checks and keys

    def _session(self, round_: int, attempt: int, stage: Stage) -> Session:
        session = self.store.load(self.run)
        if session is None or session.number != (round_, attempt):
            raise RefusalError("no such attempt was opened with this node")
        if session.stage != stage:
            raise RefusalError(f"this node is at '{session.stage}', the step needs '{stage}'")
        if session.name != self.name:
            raise RefusalError("the node's name has changed within an attempt")
        return session

    def _check_roster(self, session: Session, packet: Roster) -> None:
        if packet.names != sorted(packet.names):
            raise RefusalError("the roster is not in order")
        if len(packet.names) > capacity(self.config.secagg_bits):
            raise RefusalError("more nodes than secagg-bits leave room for")
        if len(packet.names) < self.min_nodes:
            raise RefusalError(f"{len(packet.names)} nodes, this one needs {self.min_nodes}")
        keys = packet.seals + packet.masks
        if len(set(keys)) != len(keys):
            raise RefusalError("a public key occurs twice")
        own = (self.primitives.public_key(k) for k in (session.seal_key, session.mask_key))
        found = {
            n: (s, m) for n, s, m in zip(packet.names, packet.seals, packet.masks, strict=True)
        }
        if found.get(self.name) != tuple(own):
            raise RefusalError("the roster does not hold this node's keys")

    def _check_count(self, nodes: int, session: Session) -> None:
        needed = threshold(len(session.names), self.config.secagg_threshold)
        if nodes < max(needed, self.min_nodes):
            raise RefusalError(
                f"{nodes} nodes are left: the threshold is {needed}, and this node takes part in "
                f"sums of {self.min_nodes} and more"
            )

    def _seal_key(self, session: Session, peer: str) -> bytes:
        return self._agree(session.seal_key, session.seals[peer])

    def _mask_keys(self, session: Session) -> dict[str, bytes]:
        """What this node has agreed upon with everybody who may have uploaded."""
        peers = set(session.seed_shares) - {self.name}
        return {n: self._agree(session.mask_key, session.masks[n]) for n in sorted(peers)}

    def _agree(self, private: bytes, public: bytes) -> bytes:
        try:
            return self.primitives.agree(private, public)
        except CryptoError:
            raise RefusalError("a public key is not on the curve") from None

    def _open_letter(self, session: Session, sender: str, text: bytes) -> tuple[bytes, bytes]:
        """A peer's shares of seed and key; as long as those that the node holds of itself."""
        for_seed, for_key = session.seed_shares[self.name], session.key_shares[self.name]
        head = _letter(session, sender, self.name, b"", b"")
        body = text[len(head) :]
        if not text.startswith(head) or len(body) != len(for_seed) + len(for_key):
            raise RefusalError(f"the shares of {sender} are not meant for this node and roster")
        return body[: len(for_seed)], body[len(for_seed) :]


def _letter(session: Session, sender: str, to: str, seed_share: bytes, key_share: bytes) -> bytes:
    """What is sealed: bound to the roster, the sender and the receiver."""
    position = [session.names.index(n).to_bytes(4, "little") for n in (sender, to)]
    return b"".join([bytes.fromhex(session.roster), *position, seed_share, key_share])
