"""The global models that this node receives, kept for its own users (``lumos recommend``).

There are two files below the state folder, each replaced atomically: ``model/latest.safetensors``,
the model of the last finished round, and ``model/final.safetensors``, the result of the last run
that reached its end: its best model or, where nothing has measured it, its last one. A new run
starts with an untrained model. With two files it cannot replace a good model before it has reached
its own end.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from lumos_core.recommend.model_files import KEPT_FINAL, KEPT_LATEST, ModelCard, save_model
from lumos_core.safe_files import private_folder

if TYPE_CHECKING:
    from lumos_core.federation.node import Node
    from lumos_core.flower.records import Order


def keep(state: Path, node: "Node", order: "Order", trains: bool) -> None:
    """Keep the model of an instruction that the node has carried out.

    Args:
        state: the node's state folder.
        node: the node; it holds the run's configuration and the catalog.
        order: the instruction. If it asks to train, its model is that of the previous round,
            otherwise that of its own round. The test targets are asked for once, with the result
            of the run, and in a run without them as well.
        trains: whether the order was to train.

    Raises:
        OSError: the model cannot be written.
    """
    of_round = order.round - 1 if trains else order.round
    untrained = of_round < 1 and not node.config.start_model
    if order.params is None or untrained:  # an untrained model is useless
        return
    final = not trains and order.evaluate == "test"
    catalog = node.catalog
    private_folder(state)
    card = ModelCard.of(
        node.config, len(catalog), catalog.fingerprint, of_round, final, order.title_weight
    )
    save_model(state / (KEPT_FINAL if final else KEPT_LATEST), order.params, card)
