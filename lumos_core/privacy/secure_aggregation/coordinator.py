"""The server's side of a secure round: from train instructions to one reply that is a sum.

For the round loop this is another way to exchange messages. It asks many nodes to train and gets
*one* train reply, which holds the mean delta and the summed metrics of the nodes in
``Reply.sum_of`` and is checked like any other reply. Nothing here sees an upload without its masks.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.errors import ReplyError
from lumos_core.privacy.secure_aggregation import masks
from lumos_core.privacy.secure_aggregation.encoding import Encoding
from lumos_core.privacy.secure_aggregation.packets import (
    MASKED,
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
from lumos_core.privacy.secure_aggregation.participant import capacity, threshold
from lumos_core.privacy.secure_aggregation.primitives import CryptoError, Primitives
from lumos_core.wire.messages import Instruction, Packet, Reply, Transport, exchange

log = logging.getLogger(__name__)

TIMES = {"open": 0.15, "roster": 0.3, "upload": 0.85, "unmask": 1.0}
"""The share of a round's time by which a step has to be over: waiting for a dead node in one step
must leave time for the next steps."""
P = TypeVar("P", Keys, Shares, Opened)


class _TooFewError(Exception):
    """The round cannot continue."""


@dataclass(frozen=True)
class SecureOutcome:
    """The outcome of a round.

    Attributes:
        replies: the replies of nodes that only evaluated, and one summed train reply; empty if the
            round failed.
        failed: by name of a node that is not in the sum, why it is not.
        too_large: replies to any step that were too large to be read.
    """

    replies: list[Reply]
    failed: dict[str, str]
    too_large: list[Reply] = field(default_factory=list)


class SecureExchange:
    """Secure rounds of a run.

    Args:
        config: the run's configuration.
        transport: the way to the nodes.
        primitives: the cryptography.
    """

    def __init__(self, config: RunConfig, transport: Transport, primitives: Primitives) -> None:
        self._config, self._transport, self._primitives = config, transport, primitives

    def exchange(self, instructions: Sequence[Instruction], seconds: float) -> SecureOutcome:
        """Carry out instructions; the replies to those to train are summed securely."""
        round_ = _Round(self._config, self._transport, self._primitives, seconds)
        replies: list[Reply] = []
        try:
            replies = round_.run(instructions)
        except _TooFewError as problem:
            log.error("secure aggregation: %s", problem)
            for i in instructions:
                if i.kind == "train":
                    round_.failed.setdefault(i.node, str(problem))
        return SecureOutcome(replies, round_.failed, round_.too_large)


@dataclass
class _Round:
    config: RunConfig
    transport: Transport
    primitives: Primitives
    seconds: float
    failed: dict[str, str] = field(default_factory=dict)
    too_large: list[Reply] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    started: float = field(default_factory=time.monotonic)
    attempt: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    def run(self, instructions: Sequence[Instruction]) -> list[Reply]:
        train = {i.node: i for i in instructions if i.kind == "train"}
        roster = self._roster(train)
        inboxes = self._share(train, roster)
        uploads, others = self._upload(
            train, inboxes, [i for i in instructions if i.kind != "train"], len(roster.names)
        )
        opened = self._unmask(train, roster, set(inboxes), sorted(uploads))
        example = next(iter(train.values()))
        assert example.params is not None
        encoding = Encoding.of(self.config, example.params, example.evaluate is not None)
        total = np.zeros(encoding.size, dtype=np.uint32)
        for vector in uploads.values():
            total += vector
        self._remove_masks(total, roster, set(inboxes), sorted(uploads), opened)
        try:
            delta, metrics = encoding.decode(total, len(uploads))
        except ReplyError as error:
            raise _TooFewError(str(error)) from None
        names = tuple(sorted(uploads))
        up = self.bytes_up - sum(r.bytes_up for r in others)
        down = self.bytes_down - sum(r.bytes_down for r in others)
        summed = Reply(
            names[0], "train", delta, metrics, sum_of=names, bytes_up=up, bytes_down=down
        )
        return [*others, summed]

    # --- the steps

    def _roster(self, train: Mapping[str, Instruction]) -> Roster:
        """Step 0: collect the public keys of all nodes."""
        question = pack(Open(self.attempt))
        answers = self._ask("open", {n: replace(i, params=None) for n, i in train.items()},
                            dict.fromkeys(train, question))  # fmt: skip
        keys: dict[str, Keys] = {}
        seen: set[bytes] = set()
        for name, reply in answers.items():
            with _blaming(self.failed, name):
                found = self._unpack(Keys, reply)
                if found.seal in seen or found.mask in seen or found.seal == found.mask:
                    raise ReplyError("a public key that another node has sent, too")
                self._check_key(found.seal)
                self._check_key(found.mask)
                seen |= {found.seal, found.mask}
                keys[name] = found
        names = sorted(keys)[: capacity(self.config.secagg_bits)]
        for name in sorted(keys)[len(names) :]:
            self.failed[name] = "secagg-bits leave no room for so many nodes"
        self._check_count(len(names), len(names), "open")
        return Roster(
            self.attempt, names, [keys[n].seal for n in names], [keys[n].mask for n in names]
        )

    def _share(self, train: Mapping[str, Instruction], roster: Roster) -> dict[str, Inbox]:
        """Step 1: collect every node's shares for every other node, and sort them into an inbox for
        each receiver."""
        question = pack(roster)
        asked = {n: replace(train[n], params=None) for n in roster.names}
        answers = self._ask("roster", asked, dict.fromkeys(roster.names, question))
        letters: dict[str, dict[str, bytes]] = {}
        for name, reply in answers.items():
            with _blaming(self.failed, name):
                found = self._unpack(Shares, reply)
                if set(found.names) != set(roster.names) - {name}:
                    raise ReplyError("shares for other nodes than those in the roster")
                letters[name] = dict(zip(found.names, found.sealed, strict=True))
        self._check_count(len(letters), len(roster.names), "roster")
        inboxes = {}
        for name in letters:
            senders = sorted(letters.keys() - {name})
            sealed = [letters[sender][name] for sender in senders]
            inboxes[name] = Inbox(self.attempt, senders, sealed)
        return inboxes

    def _upload(
        self,
        train: Mapping[str, Instruction],
        inboxes: Mapping[str, Inbox],
        others: Sequence[Instruction],
        roster: int,
    ) -> tuple[dict[str, np.ndarray], list[Reply]]:
        """Step 2: masked vectors of the nodes that train, replies of those that only evaluate."""
        asked = {n: train[n] for n in inboxes}
        packets = {n: pack(inbox) for n, inbox in inboxes.items()}
        answers = self._ask("upload", asked, packets, "train", others)
        example = next(iter(train.values()))
        assert example.params is not None
        size = Encoding.of(self.config, example.params, example.evaluate is not None).size
        uploads: dict[str, np.ndarray] = {}
        for name in inboxes:
            if name in answers:
                with _blaming(self.failed, name):
                    uploads[name] = _vector(answers[name], size)
        self._check_count(len(uploads), roster, "upload")
        return uploads, [answers[i.node] for i in others if i.node in answers]

    def _unmask(
        self,
        train: Mapping[str, Instruction],
        roster: Roster,
        sharing: set[str],
        survivors: list[str],
    ) -> list[dict[str, bytes]]:
        """Step 3: the shares that as many nodes hold as are needed to unmask.

        Returns:
            For each of these nodes its shares, by the name of the node whose secret is shared.
        """
        question = pack(Survivors(self.attempt, survivors))
        asked = {n: replace(train[n], params=None) for n in survivors}
        answers = self._ask("unmask", asked, dict.fromkeys(survivors, question))
        opened = []
        for name, reply in answers.items():
            with _blaming(self.failed, name):
                found = self._unpack(Opened, reply)
                if set(found.names) != sharing:
                    raise ReplyError("shares of other nodes than asked for")
                opened.append(dict(zip(found.names, found.shares, strict=True)))
        for name in survivors:  # their uploads are in the sum, even if they did not help to unmask
            self.failed.pop(name, None)
        needed = threshold(len(roster.names), self.config.secagg_threshold)
        if len(opened) < needed:
            raise _TooFewError(f"{len(opened)} nodes helped to unmask, the threshold is {needed}")
        return opened[:needed]

    def _remove_masks(
        self,
        total: np.ndarray,
        roster: Roster,
        sharing: set[str],
        survivors: list[str],
        opened: list[dict[str, bytes]],
    ) -> None:
        """Remove from the sum, in place, the masks that do not cancel out."""
        public = dict(zip(roster.names, roster.masks, strict=True))
        try:
            for name in survivors:
                seed = self.primitives.combine([shares[name] for shares in opened])
                if len(seed) != masks.KEY_BYTES:
                    raise CryptoError
                masks.remove_own(total, seed)
            for name in sorted(sharing - set(survivors)):
                private = self.primitives.combine([shares[name] for shares in opened])
                if self.primitives.public_key(private) != public[name]:
                    raise CryptoError
                keys = {n: self.primitives.agree(private, public[n]) for n in survivors}
                # The survivors' masks with this absent node are still in the sum. Adding the masks
                # that the absent node would have added cancels them out.
                masks.add_pairwise(total, name, keys)
        except CryptoError:
            raise _TooFewError("shares do not fit together: a node did not keep to the protocol") \
                from None  # fmt: skip

    # --- messages

    def _ask(
        self,
        step: str,
        asked: Mapping[str, Instruction],
        packets: Mapping[str, Packet],
        kind: str = "secagg",
        others: Sequence[Instruction] = (),
    ) -> dict[str, Reply]:
        """Replies without errors, by name; why the others are missing is recorded in ``failed``."""
        instructions = [
            replace(i, kind="train" if kind == "train" else "secagg", secure=packets[n])
            for n, i in asked.items()
        ]
        left = self.started + TIMES[step] * self.seconds - time.monotonic()
        replies = exchange(self.transport, [*instructions, *others], max(left, 0.0))
        self.bytes_up += sum(r.bytes_up for r in replies)
        self.bytes_down += sum(r.bytes_down for r in replies)
        self.too_large += [r for r in replies if r.too_large and r.node in asked]
        answers = {r.node: r for r in replies}
        for name in asked:
            if name not in answers:
                self.failed[name] = f"no reply to step '{step}' in its time"
            elif (code := answers[name].error) is not None:
                self.failed[name] = f"step '{step}': error {code[:80]!r}"
                del answers[name]
        return answers

    def _unpack(self, kind: type[P], reply: Reply) -> P:
        found = unpack(kind, reply.secure)
        if found.attempt != self.attempt:
            raise ReplyError("a reply to another attempt")
        return found

    def _check_key(self, public: bytes) -> None:
        try:
            self.primitives.agree(self.primitives.new_private_key(), public)
        except CryptoError:
            raise ReplyError("a public key that is not on the curve") from None

    def _check_count(self, found: int, roster: int, step: str) -> None:
        needed = max(threshold(roster, self.config.secagg_threshold), self.config.min_replies)
        if found < needed:
            raise _TooFewError(f"{found} nodes are left after step '{step}', {needed} are needed")


@contextmanager
def _blaming(failed: dict[str, str], name: str) -> Iterator[None]:
    """Records a ReplyError as the reason why a node is left out."""
    try:
        yield
    except ReplyError as error:
        failed[name] = str(error)
        log.warning("node %s: left out of the secure round: %s", name, error)


def _vector(reply: Reply, size: int) -> np.ndarray:
    arrays = reply.arrays or {}
    if set(arrays) != {MASKED}:
        raise ReplyError(f"expected one array '{MASKED}'")
    found = arrays[MASKED]
    if found.dtype != np.uint32 or found.shape != (size,):
        raise ReplyError(f"'{MASKED}' is {found.dtype} {found.shape}, expected uint32 ({size},)")
    return found
