"""A server that looks for a sum over one node, and what the node answers.

The refusals are those of the code that a deployment runs
(:class:`~lumos_core.privacy.secure_aggregation.participant.Participant`); only the network is left
out.
"""

from collections.abc import Callable, Sequence

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.errors import RefusalError
from lumos_core.privacy.secure_aggregation.packets import (
    Inbox,
    Keys,
    Open,
    Roster,
    Shares,
    Survivors,
    pack,
    unpack,
)
from lumos_core.privacy.secure_aggregation.participant import Participant
from lumos_core.privacy.secure_aggregation.primitives import Primitives
from lumos_core.privacy.secure_aggregation.session_store import MemoryStore
from lumos_core.wire.messages import Metrics
from lumos_core.wire.reply_checks import train_names

ACCEPTED = "accepted"
_NAMES = ("node-0", "node-1", "node-2")


def refusals(config: RunConfig, primitives: Primitives) -> dict[str, str]:
    """What a node with its default floor answers to each way of asking for a sum of one or two.

    Args:
        config: of a run with secure aggregation.
        primitives: the cryptography.

    Returns:
        The request → why it is refused, or :data:`ACCEPTED`.
    """
    return {
        "a roster of one node": _roster_of(1, config, primitives),
        "a roster of two nodes": _roster_of(2, config, primitives),
        "shares of one node, out of a roster of three": _inbox_of(0, config, primitives),
        "one survivor, out of three uploads": _survivors_of(1, config, primitives),
    }


def _opened(
    names: Sequence[str], config: RunConfig, primitives: Primitives
) -> tuple[list[Participant], Roster]:
    """Nodes that have opened an attempt, and their roster."""
    nodes = [Participant(name, "0", config, primitives, MemoryStore()) for name in names]
    keys = [unpack(Keys, node.answer(1, pack(Open(1)))) for node in nodes]
    return nodes, Roster(1, list(names), [k.seal for k in keys], [k.mask for k in keys])


def _roster_of(count: int, config: RunConfig, primitives: Primitives) -> str:
    nodes, roster = _opened(_NAMES[:count], config, primitives)
    return _answer(lambda: nodes[0].answer(1, pack(roster)))


def _shared(config: RunConfig, primitives: Primitives) -> tuple[Participant, list[Shares]]:
    """The first of three nodes after the roster, and the shares of all."""
    nodes, roster = _opened(_NAMES, config, primitives)
    return nodes[0], [unpack(Shares, node.answer(1, pack(roster))) for node in nodes]


def _inbox(shares: list[Shares], senders: int) -> Inbox:
    """The shares for the first node, of the first so many other nodes."""
    sent = list(zip(_NAMES[1:], shares[1:], strict=True))[:senders]
    mine = [s.sealed[s.names.index(_NAMES[0])] for _, s in sent]
    return Inbox(1, [name for name, _ in sent], mine)


def _inbox_of(senders: int, config: RunConfig, primitives: Primitives) -> str:
    node, shares = _shared(config, primitives)
    return _answer(lambda: _upload(node, _inbox(shares, senders)))


def _survivors_of(count: int, config: RunConfig, primitives: Primitives) -> str:
    node, shares = _shared(config, primitives)
    _upload(node, _inbox(shares, 2))
    return _answer(lambda: node.answer(1, pack(Survivors(1, list(_NAMES[:count])))))


def _upload(node: Participant, inbox: Inbox) -> None:
    """Let a node upload a vector of one number; what it has trained does not matter here."""
    like = {"number": np.zeros(1, dtype=np.float32)}
    told: Metrics = dict.fromkeys(train_names(node.config, evaluated=False), 1)
    node.upload(1, pack(inbox), like, False, lambda: (like, told))


def _answer(ask: Callable[[], object]) -> str:
    try:
        ask()
    except RefusalError as refusal:
        return str(refusal)
    return ACCEPTED
