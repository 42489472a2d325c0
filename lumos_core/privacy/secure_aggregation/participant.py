"""A node's side of a secure round: which packet it accepts when, and what it answers.

A secure round is tried until it succeeds, and every attempt at it has a higher number than the one
before. An attempt has four steps, listed in the table `STEPS`: the packet that the server sends,
the state that the node has to be in, what it does and answers, and its next state. A node remembers
one attempt, the newest that it has opened. For a later attempt its state is "new", and it accepts
only the packet that opens it; for an earlier attempt its state is "past", and it accepts nothing.

A packet that is not in the table is refused, so every step is taken once and in order. Two uploads
in one attempt would have the same masks, and their difference would reveal the difference of the
deltas; two answers at the end could reveal both kinds of shares. Therefore a node stores its new
state first and answers afterwards. If it dies in between, it refuses that step from then on: the
round loses one node, and nothing is revealed.

Within a step a node keeps these rules, whatever the server says:

- There are at least `secagg-min-nodes` nodes (its owner's choice) in the roster and at every later
  step. After the roster there are also at least the threshold, which is more than half of the
  roster.
- Its own keys are in the roster, no key is there twice, and every share was sealed for it by the
  named node for exactly this roster.
- At the end, for each node that sent shares, it gives *either* its share of the seed of that node's
  own mask (if the upload is in the sum) *or* its share of that node's mask key (if it is not),
  never both.

A refused packet changes nothing: the correct one is still accepted afterwards. When an attempt is
closed, only its number and the node's name stay on the disk; its secrets are removed before the
last answer is sent.
"""

import math
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.errors import RefusalError
from lumos_core.privacy.secure_aggregation import masks, packets
from lumos_core.privacy.secure_aggregation.packets import (
    Answer,
    Inbox,
    Keys,
    Open,
    Opened,
    Question,
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
    from lumos_core.wire.messages import Metrics

MIN_NODES = 3
"""The smallest number of nodes in a sum: with two, each could compute the other's part."""

State = Literal["new", Stage, "past"]
"""A node's state in an attempt: the last step taken for the newest attempt that it has opened;
"new" for a later attempt, "past" for an earlier one."""

Train = Callable[[], "tuple[Params, Metrics]"]
"""The function that trains; it is called after all checks have passed. The delta is float32, not
encoded."""


def threshold(nodes: int, share: float) -> int:
    """How many of ``nodes`` must help to unmask a sum: at least ``share`` of them, and always more
    than half, so that two disjoint groups can never unmask different sums."""
    return max(math.ceil(share * nodes - 1e-9), nodes // 2 + 1)


def capacity(bits: int) -> int:
    """How many nodes' values of this many bits can be added without an overflow."""
    return int(2 ** (32 - bits))


@dataclass(frozen=True)
class Participant:
    """One node's part in the secure rounds of one run.

    Args:
        name: the node's name.
        run: the run's id; sessions of different runs do not mix.
        config: the run's configuration.
        primitives: the cryptography.
        store: where sessions are kept between two steps.
        min_nodes: this node takes part only in sums over at least this many nodes.
    """

    name: str
    run: str
    config: RunConfig
    primitives: Primitives
    store: Store
    min_nodes: int = MIN_NODES

    def answer(self, round_: int, packet: Mapping[str, object]) -> Packet:
        """Take step 0, 1 or 3.

        Args:
            round_: round of the instruction that carries the packet.
            packet: the server's, as it travels.

        Raises:
            RefusalError: the node does not take this step.
            ReplyError: the packet is malformed.
        """
        if not self.config.secure_aggregation:
            raise RefusalError("this run has secure-aggregation = false")
        kind = _ANSWERED.get(packets.stage_of(packet))
        if kind is None:
            raise RefusalError(f"there is no stage {packets.stage_of(packet)[:40]!r}")
        _, answer = self._take(round_, unpack(kind, packet))
        assert answer is not None
        return pack(answer)

    def upload(
        self,
        round_: int,
        packet: Mapping[str, object],
        like: "Params",
        evaluated: bool,
        train: Train,
    ) -> np.ndarray:
        """Take step 2: train and mask.

        Args:
            round_: round of the instruction.
            packet: an :class:`~lumos_core.privacy.secure_aggregation.packets.Inbox`.
            like: the received model.
            evaluated: whether the received model is evaluated as well.
            train: trains, and evaluates if asked to.

        Returns:
            The masked vector: uint32 [``Encoding.size``].

        Raises:
            RefusalError: the node does not take this step.
            ReplyError: the packet is malformed.
            ModelError: training diverged.
        """
        if not self.config.secure_aggregation:
            raise RefusalError("this run has secure-aggregation = false")
        session, _ = self._take(round_, unpack(Inbox, packet))  # stored before training
        from lumos_core.privacy.secure_aggregation.encoding import Encoding

        encoding = Encoding.of(self.config, like, evaluated)
        delta, metrics = train()
        seed = (self.config.seed, round_, zlib.crc32(self.name.encode()), 2)
        vector = encoding.encode(delta, metrics, np.random.default_rng(seed))
        masks.add_own(vector, session.seed)
        masks.add_pairwise(vector, self.name, self._mask_keys(session))
        return vector

    # --- the state machine

    def _take(self, round_: int, packet: Question) -> tuple[Session, Answer | None]:
        """Take the step that the table has for this packet. The new state is stored before this
        returns."""
        with self.store.locked():
            state, session = self._attempt(round_, packet.attempt)
            step = STEPS.get((state, type(packet)))
            if step is None:
                raise _refusal(state, packet)
            if session.name != self.name:
                raise RefusalError("the node's name has changed within an attempt")
            session, answer = step.take(self, session, packet)
            session = session.model_copy(update={"stage": step.then})
            self.store.save(session)
        return session, answer

    def _attempt(self, round_: int, attempt: int) -> tuple[State, Session]:
        """This node's state in an attempt, and what it remembers of the newest one."""
        last = self.store.load(self.run)
        if last is None or (round_, attempt) > last.number:
            return "new", Session(  # its stage is set with the first step
                run=self.run, round=round_, attempt=attempt, stage="opened", name=self.name
            )
        return (last.stage if (round_, attempt) == last.number else "past"), last

    # --- the steps

    def _open(self, session: Session, packet: Open) -> tuple[Session, Keys]:
        """Make two key pairs for this attempt; answer with the public keys."""
        seal, mask = self.primitives.new_private_key(), self.primitives.new_private_key()
        public = self.primitives.public_key
        session = session.model_copy(update={"seal_key": seal, "mask_key": mask})
        return session, Keys(packet.attempt, public(seal), public(mask))

    def _share(self, session: Session, packet: Roster) -> tuple[Session, Shares]:
        """Check the roster; split the seed of this node's own mask, and its mask key, among all
        nodes of the roster."""
        self._check_roster(session, packet)
        needed = threshold(len(packet.names), self.config.secagg_threshold)
        seed = os.urandom(masks.KEY_BYTES)
        seed_shares = self.primitives.split(seed, needed, len(packet.names))
        key_shares = self.primitives.split(session.mask_key, needed, len(packet.names))
        seen = {
            "seed": seed,
            "roster": roster_digest(session.round, packet),
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
        return session, Shares(packet.attempt, peers, sealed)

    def _receive(self, session: Session, packet: Inbox) -> tuple[Session, None]:
        """Unseal the shares of the others. Next the node trains and uploads a masked vector."""
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
        return session, None

    def _unmask(self, session: Session, packet: Survivors) -> tuple[Session, Opened]:
        """Answer with a share of each survivor's seed and of each other node's mask key; delete all
        secrets."""
        sharing = set(session.seed_shares)  # all nodes whose masks may be in an upload
        surviving = set(packet.names)
        if not surviving <= sharing:
            raise RefusalError("a survivor that has shared nothing")
        if self.name not in surviving:
            raise RefusalError("this node has uploaded, yet is not among the survivors")
        self._check_count(len(surviving), session)
        names = sorted(sharing)
        shares = [
            session.seed_shares[n] if n in surviving else session.key_shares[n] for n in names
        ]
        return session.closed(), Opened(packet.attempt, names, shares)

    # --- checks and keys

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
        """The mask keys that this node has agreed on with each node that may have uploaded."""
        peers = set(session.seed_shares) - {self.name}
        return {n: self._agree(session.mask_key, session.masks[n]) for n in sorted(peers)}

    def _agree(self, private: bytes, public: bytes) -> bytes:
        try:
            return self.primitives.agree(private, public)
        except CryptoError:
            raise RefusalError("a public key is not on the curve") from None

    def _open_letter(self, session: Session, sender: str, text: bytes) -> tuple[bytes, bytes]:
        """A peer's shares of seed and key; they have the same lengths as this node's own."""
        for_seed, for_key = session.seed_shares[self.name], session.key_shares[self.name]
        head = _letter(session, sender, self.name, b"", b"")
        body = text[len(head) :]
        if not text.startswith(head) or len(body) != len(for_seed) + len(for_key):
            raise RefusalError(f"the shares of {sender} are not meant for this node and roster")
        return body[: len(for_seed)], body[len(for_seed) :]


def _letter(session: Session, sender: str, to: str, seed_share: bytes, key_share: bytes) -> bytes:
    """The text that is sealed: shares, bound to the roster, the sender and the receiver."""
    position = [session.names.index(n).to_bytes(4, "little") for n in (sender, to)]
    return b"".join([bytes.fromhex(session.roster), *position, seed_share, key_share])


class Step(NamedTuple):
    """A row of the table.

    Attributes:
        take: what the node does. It returns what the node remembers from then on and the packet to
            answer with, None if the answer is the masked vector. A RefusalError changes nothing.
        answer: the type of that packet.
        then: the state afterwards.
    """

    take: Callable[[Participant, Session, Any], tuple[Session, Answer | None]]
    answer: type[Answer] | None
    then: Stage


STEPS: Mapping[tuple[State, type[Question]], Step] = {
    ("new", Open): Step(Participant._open, Keys, "opened"),
    ("opened", Roster): Step(Participant._share, Shares, "shared"),
    ("shared", Inbox): Step(Participant._receive, None, "uploaded"),
    ("uploaded", Survivors): Step(Participant._unmask, Opened, "closed"),
}
"""The step for a state of the attempt and a type of packet. Everything else is refused."""

_ANSWERED = {kind.stage: kind for (_, kind), step in STEPS.items() if step.answer is not None}


def _refusal(state: State, packet: Question) -> RefusalError:
    """Why there is no step for this packet in this state."""
    if isinstance(packet, Open):
        return RefusalError("this attempt, or a later one, was opened before: a replay")
    if state in ("new", "past"):
        return RefusalError("no such attempt was opened with this node")
    needed = next(before for before, kind in STEPS if kind is type(packet))
    return RefusalError(f"this node is at '{state}', the step needs '{needed}'")
