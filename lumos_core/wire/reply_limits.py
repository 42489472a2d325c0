"""How much a reply may hold. Checked before any of it is unpacked, so that no reply costs more
memory or time than an honest one.

A train reply holds arrays: at most twice as many, and twice as many bytes, as the model that the
node was asked to train, plus what a codec may add. Every other reply is a short record. The
SuperLink applies looser limits before (:mod:`lumos_core.flower.bounded_link`), since it knows
nothing of models.
"""

from collections.abc import Sized
from dataclasses import dataclass

from lumos_core.errors import ReplyError
from lumos_core.wire.messages import Instruction

MIB = 2**20
SPARE_BYTES = 4 * MIB
"""Bytes of a reply beside its arrays: names, shapes, metrics; and of its arrays, where the model is
tiny."""
SPARE_ARRAYS = 16
"""Arrays beside twice those of the model: what a codec adds, such as scales and row numbers."""
MAX_RECORDS = 8
MAX_ENTRIES = 64
"""Metrics, or fields of a record. Items of lists count as entries, too."""
CHUNK_BYTES = 5 * MIB
"""Flower sends arrays in pieces of this size."""
_PEER_BYTES = 8192  # of a secure round, for each node in it: a name and a sealed share
_PEER_ENTRIES = 4


class ReplyTooLargeError(ReplyError):
    """A reply holds more than any honest one."""


@dataclass(frozen=True)
class ReplyLimits:
    """The most that the reply to one instruction may hold.

    Attributes:
        arrays: by name.
        size: bytes of all arrays.
        entries: metrics or fields of one record, items of their lists included.
        small: bytes of everything but array data.
    """

    arrays: int = SPARE_ARRAYS
    size: int = SPARE_BYTES
    entries: int = MAX_ENTRIES
    small: int = SPARE_BYTES

    @classmethod
    def of(cls, asked: Instruction) -> "ReplyLimits":
        """The limits of the reply to an instruction."""
        names = (asked.secure or {}).get("names")
        peers = len(names) if isinstance(names, Sized) else 0
        entries = MAX_ENTRIES + peers * _PEER_ENTRIES
        small = SPARE_BYTES + peers * _PEER_BYTES
        if asked.kind != "train" or asked.params is None:
            return cls(entries=entries, small=small)
        model = sum(array.nbytes for array in asked.params.values())
        arrays = 2 * len(asked.params) + SPARE_ARRAYS
        return cls(arrays, 2 * model + SPARE_BYTES, entries, small)

    @property
    def objects(self) -> int:
        """Pieces that Flower makes of a reply: itself, records, arrays, and pieces of arrays."""
        return 2 + MAX_RECORDS + 2 * self.arrays + self.size // CHUNK_BYTES

    def check(self, what: str, found: int, limit: int) -> None:
        """Raises ReplyTooLargeError if there are more of something than allowed."""
        if found > limit:
            raise ReplyTooLargeError(f"{found} {what}, at most {limit}")
