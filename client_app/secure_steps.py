"""The steps of secure aggregation at a node: it connects Flower's messages with the protocol in
:mod:`lumos_core.privacy.secure_aggregation`."""

from pathlib import Path

import numpy as np
from flwr.app import Context

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.errors import RefusalError, ReplyError
from lumos_core.flower.cryptography import FLOWER
from lumos_core.flower.records import Order
from lumos_core.privacy.secure_aggregation.participant import Participant, Train
from lumos_core.privacy.secure_aggregation.session_store import FileStore


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


def upload(part: Participant, order: Order, train: Train) -> np.ndarray:
    """Train, and mask the result before it leaves.

    Args:
        part: this node.
        order: the instruction.
        train: trains; called once the protocol allows it.

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
        train,
    )


def check_plain_allowed(config: RunConfig) -> None:
    """Refuse to send a delta that the server could read, if the run has secure aggregation. What
    the node's owner requires is checked before (:mod:`lumos_core.federation.owner_floor`).

    Raises:
        RefusalError: the run has it.
    """
    if config.secure_aggregation:
        raise RefusalError("the run has secure-aggregation = true, the instruction is a plain one")
