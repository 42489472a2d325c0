"""The steps of secure aggregation at a node: it connects Flower's messages with the protocol in
:mod:`lumos_core.privacy.secure_aggregation`."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Context

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.errors import RefusalError, ReplyError
from lumos_core.flower.cryptography import FLOWER
from lumos_core.flower.records import Order
from lumos_core.privacy.secure_aggregation.participant import Participant
from lumos_core.privacy.secure_aggregation.session_store import FileStore

if TYPE_CHECKING:
    from lumos_core.federation.node import Node


def participant(
    context: Context, config: RunConfig, settings: NodeConfig, state: Path
) -> Participant:
    """This node as a participant in the run that ``context`` belongs to."""
    return Participant(
        settings.name,
        str(context.run_id),
        config,
        FLOWER,
        FileStore(state),
        settings.secagg_min_nodes,
    )


def upload(part: Participant, node: "Node", order: Order) -> np.ndarray:
    """Train, and mask the result before it leaves.

    Raises:
        RefusalError: the protocol forbids it.
        ReplyError: the instruction is malformed.
    """
    params = order.params
    if params is None or order.secure is None:
        raise ReplyError("the instruction brought no model or no packet")
    return part.upload(
        order.round,
        order.secure,
        params,
        order.evaluate is not None,
        lambda: node.train(params, order.round, order.evaluate),
    )


def check_plain_allowed(config: RunConfig, settings: NodeConfig) -> None:
    """Refuse to send a delta that the server could read, if the run or the node's owner forbids it.

    Raises:
        RefusalError: one of them forbids it.
    """
    if config.secure_aggregation:
        raise RefusalError("the run has secure-aggregation = true, the instruction is a plain one")
    if settings.require_secure_aggregation:
        raise RefusalError("this node has require-secure-aggregation = true, the run has not")
