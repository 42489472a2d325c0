"""The methods that a run can train by. A method is data: what it trains on, and how."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Method:
    """What distinguishes one method from another; everything else is equal for all.

    Attributes:
        summary: for help texts.
        objective: what is added to the next-item loss, a key of
            :data:`lumos_core.learning.training.OBJECTIVES`.
        views: whether it trains on the views of a writer; nodes then write them before round 1.
        start: whether items start from their titles in comparisons, unless a variant says
            otherwise.
        per_user: whether each user's loss depends on that user alone, which ``dp = user`` needs.
    """

    summary: str
    objective: Literal["next-item", "two-view", "tri-view"]
    views: bool = False
    start: bool = False
    per_user: bool = True


METHODS: dict[str, Method] = {
    "lumos": Method(
        "tri-view contrastive learning on views by a local language model",
        objective="tri-view",
        views=True,
        start=True,
    ),
    "confedsrs": Method(
        "contrastive learning on two random perturbations of each history",
        objective="two-view",
        per_user=False,
    ),
    "fedavg": Method("next-item loss alone", objective="next-item"),
}
