"""The packets of a secure round: its messages, apart from the model and the masked vector.

====== ============ ============================== ============================================
step   stage        server → node                  node → server
====== ============ ============================== ============================================
0      ``open``     :class:`Open`                  :class:`Keys`: two public keys
1      ``roster``   :class:`Roster`: all nodes     :class:`Shares`: for every peer, sealed
2      ``upload``   :class:`Inbox`: peers' shares  one masked vector (with the train instruction)
3      ``unmask``   :class:`Survivors`             :class:`Opened`: shares
====== ============ ============================== ============================================

On the wire a packet is a flat mapping (a Flower ConfigRecord). Nothing that arrives is trusted:
:func:`unpack` accepts exactly the fields of the expected packet, with exactly their types, valid
node names and no name twice, and raises :class:`~lumos_core.errors.ReplyError` otherwise.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

from lumos_core.config import NODE_NAME
from lumos_core.errors import ReplyError
from lumos_core.wire.messages import Packet

STAGE = "stage"
MASKED = "masked"
"""Name of the array in the reply to step 2."""
MAX_BYTES = 4096
"""The largest size of a key, a ciphertext or a share."""
_NAME = re.compile(NODE_NAME)


@dataclass(frozen=True)
class Open:
    """Step 0: take part in this attempt at the round; each attempt has a larger number."""

    stage: ClassVar[str] = "open"
    attempt: int


@dataclass(frozen=True)
class Keys:
    """A node's public keys of this attempt: for sealing shares, and for pairwise masks."""

    stage: ClassVar[str] = "keys"
    attempt: int
    seal: bytes
    mask: bytes


@dataclass(frozen=True)
class Roster:
    """Step 1: the public keys of all nodes, in order of names."""

    stage: ClassVar[str] = "roster"
    attempt: int
    names: list[str]
    seals: list[bytes]
    masks: list[bytes]


@dataclass(frozen=True)
class Shares:
    """A node's shares, each sealed for the node at the same place in ``names``."""

    stage: ClassVar[str] = "shares"
    attempt: int
    names: list[str]
    sealed: list[bytes]


@dataclass(frozen=True)
class Inbox:
    """Step 2: the shares that others have sealed for this node."""

    stage: ClassVar[str] = "upload"
    attempt: int
    names: list[str]
    sealed: list[bytes]


@dataclass(frozen=True)
class Survivors:
    """Step 3: the nodes whose uploads are in the sum.

    The packet cannot name nodes whose *other* kind of share is wanted: a node derives these itself.
    """

    stage: ClassVar[str] = "unmask"
    attempt: int
    names: list[str]


@dataclass(frozen=True)
class Opened:
    """A share of the seed of each survivor, and of the mask key of each of the others."""

    stage: ClassVar[str] = "opened"
    attempt: int
    names: list[str]
    shares: list[bytes]


Question = Open | Roster | Inbox | Survivors
Answer = Keys | Shares | Opened
P = TypeVar("P", bound=Question | Answer)


def pack(packet: Question | Answer) -> Packet:
    """A packet as it travels on the wire."""
    return {STAGE: packet.stage, **{f.name: getattr(packet, f.name) for f in fields(packet)}}


def unpack(kind: type[P], values: Mapping[str, object]) -> P:
    """The packet that :func:`pack` was given.

    Raises:
        ReplyError: it is another one, or malformed.
    """
    expected = {f.name for f in fields(kind)} | {STAGE}
    if set(values) != expected or values[STAGE] != kind.stage:
        raise ReplyError(f"not a packet of stage '{kind.stage}'")
    for field in fields(kind):
        if not _CHECKS[field.type](values[field.name]):  # type: ignore[index]
            raise ReplyError(f"stage '{kind.stage}': '{field.name}' is malformed")
    lists = {len(v) for v in values.values() if isinstance(v, list)}
    if len(lists) > 1:
        raise ReplyError(f"stage '{kind.stage}': lists of different lengths")
    return kind(**{f.name: values[f.name] for f in fields(kind)})  # type: ignore[arg-type]


def stage_of(values: Mapping[str, object]) -> str:
    """The stage that a packet claims to belong to; empty if it names none."""
    stage = values.get(STAGE)
    return stage if isinstance(stage, str) else ""


def size_of(values: Mapping[str, object]) -> int:
    """Payload bytes of a packet."""
    return sum(len(name) + _size(value) for name, value in values.items())


def _size(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str | bytes) else 8


def _is_attempt(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes) and 0 < len(value) <= MAX_BYTES


def _is_bytes_list(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_bytes, value))


def _is_names(value: object) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(n, str) and _NAME.fullmatch(n) for n in value)
        and len(set(value)) == len(value)
    )


_CHECKS = {int: _is_attempt, bytes: _is_bytes, list[bytes]: _is_bytes_list, list[str]: _is_names}
