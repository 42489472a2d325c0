"""The methods that a run can train with. A method is data: what it trains on, and how."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Method:
    """The properties in which methods differ; everything else is the same for all.

    Attributes:
        summary: a line for help texts.
        objective: the loss that is added to the next-item loss, a key of
            :data:`lumos_core.learning.training.OBJECTIVES`.
        views: whether it trains on the views of a writer; nodes then write them before round 1.
        start: whether in comparisons item embeddings start from the items' titles, unless a variant
            says otherwise.
        plus: whether, unless keys say otherwise, rare items keep what their titles say
            (``item-rows``), and the nearness of titles counts in rankings (``title-weight``).
        per_user: whether each user's loss depends on that user alone, which ``dp = user`` needs.
    """

    summary: str
    objective: Literal["next-item", "two-view", "tri-view"]
    views: bool = False
    start: bool = False
    plus: bool = False
    per_user: bool = True


METHODS: dict[str, Method] = {
    "lumos": Method(
        "tri-view contrastive learning on views by a local language model",
        objective="tri-view",
        views=True,
        start=True,
        plus=True,
    ),
    "fedavg-plus": Method(
        "lumos without views: next-item loss, titles at the start and in rankings",
        objective="next-item",
        start=True,
        plus=True,
    ),
    "confedsrs-plus": Method(
        "confedsrs with the titles of fedavg-plus: lumos with random perturbations for views",
        objective="two-view",
        start=True,
        plus=True,
        per_user=False,
    ),
    "confedsrs": Method(
        "contrastive learning on two random perturbations of each history",
        objective="two-view",
        per_user=False,
    ),
    "fedavg": Method("next-item loss alone", objective="next-item"),
}


def next_item_only(name: str) -> str:
    """The method that has the next-item loss alone, and everything else in common with this one.

    >>> next_item_only("lumos"), next_item_only("confedsrs")
    ('fedavg-plus', 'fedavg')
    """
    plus = METHODS[name].plus
    return next(n for n, m in METHODS.items() if m.objective == "next-item" and m.plus == plus)
