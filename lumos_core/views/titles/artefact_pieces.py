"""The catalog artefact in pieces of bounded size, as a server sends it to nodes that lack it."""

from typing import NamedTuple

MAX_BYTES = 2 * 1024**3
"""A larger artefact is refused: about 600,000 titles."""
PIECE_BYTES = 4 * 2**20
"""Of every piece but the last. Flower sends arrays in parts of 5 MiB, so a piece is one part; and
every message starts a process, so that smaller pieces would take longer for no gain."""
_FIXED_BYTES, _ITEM_BYTES = 64 * 2**20, 16 * 2**10


class Offered(NamedTuple):
    """What a server tells of its artefact before it sends any of it. The digest is in the run's
    configuration (``catalog-artefact``).

    Attributes:
        size: bytes of the file.
        model: fingerprint of the language model.
        recipe: versions of what made the arrays.
        noun: what a history is.
    """

    size: int
    model: str
    recipe: str
    noun: str

    @property
    def pieces(self) -> int:
        """How many there are."""
        return -(-self.size // PIECE_BYTES)

    def size_of(self, piece: int) -> int:
        """Bytes of a piece, which are counted from 0."""
        return min(PIECE_BYTES, self.size - piece * PIECE_BYTES)


class Piece(NamedTuple):
    """A part of the file.

    Attributes:
        number: from 0.
        content: its bytes.
    """

    number: int
    content: bytes


def most_bytes(items: int) -> int:
    """The largest file that a node accepts for a catalog. A title takes about 3.5 KB, the rest
    depends on the model; the limit leaves room for titles that the catalog has no more."""
    return min(_FIXED_BYTES + items * _ITEM_BYTES, MAX_BYTES)
