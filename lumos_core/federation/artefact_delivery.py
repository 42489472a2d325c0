"""The catalog artefact on its way to one node.

The server asks, the node answers which piece it wants: the server sends that one, and so on until
the node wants none. A node that began before an interruption names the piece at which it stopped.
"""

from dataclasses import dataclass

from lumos_core.errors import ReplyError
from lumos_core.views.titles.artefact_offer import Offer
from lumos_core.wire import reply_checks
from lumos_core.wire.messages import Instruction, Reply

AT_ONCE = 16
"""Nodes that fetch at a time: pieces lie in the SuperLink's database until nodes have them."""
_LOST_ANSWERS = 2
"""Of a node, until it is offered the file no more: it may have a LUMOS that cannot fetch."""


def is_lost(reply: Reply) -> bool:
    """Whether a reply tells of a node that was restarted or cut off, and may answer later."""
    return (reply.error or "").startswith("flower-")


@dataclass
class Delivery:
    """What one node has been sent.

    Args:
        offer: the file.
    """

    offer: Offer
    sent: int = 0
    _wanted: int | None = None
    _lost: int = 0

    def instruction(self, name: str) -> Instruction:
        """The next question, with the piece that the node wants."""
        piece = None if self._wanted is None else self.offer.piece(self._wanted)
        self.sent += piece is not None
        return Instruction(name, "artefact", offered=self.offer.offered, piece=piece)

    def may_go_on(self) -> bool:
        """Count an answer that was lost."""
        self._lost += 1
        self._wanted = None  # what has come of the piece, the node will say
        return self._lost < _LOST_ANSWERS

    def take(self, reply: Reply) -> bool:
        """Take the node's answer.

        Returns:
            Whether it wants another piece.

        Raises:
            ReplyError: it answers something else, or wants pieces again and again.
        """
        pieces = self.offer.offered.pieces
        reply_checks.check_answers(reply, "artefact")
        reply_checks.check_fetch(reply.metrics, pieces)
        wanted = int(reply.metrics["piece"])
        if reply.metrics["wanted"] and self.sent > 2 * pieces + _LOST_ANSWERS:
            raise ReplyError(f"it wants piece {wanted} after {self.sent} of {pieces} were sent")
        self._wanted, self._lost = wanted, 0
        return bool(reply.metrics["wanted"])
