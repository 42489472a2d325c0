"""The view coverage of a run: whether every node trained on the views of all its users."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from lumos_core.config import METHODS
from lumos_core.runs.history import Event

NOT_COMPLETE = "views incomplete"
"""The note beside the method's name if views were missing."""


class RunViews(BaseModel):
    """``views`` in ``summary.json``; only of methods that train on views.

    Attributes:
        complete: every node had views of all its users in every round.
        rounds: number of rounds that trained.
        rounds_lacking: number of these rounds in which some node lacked views.
        nodes: by name of a node, in how many rounds it lacked views; with secure aggregation, where
            names are not known, all under "some nodes".
        share: ``view-share``, the share of users who were to get views.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    complete: bool
    rounds: int = 0
    rounds_lacking: int = 0
    nodes: dict[str, int] = {}
    share: float = 1.0

    @classmethod
    def of(cls, config: Mapping[str, Any], events: Iterable[Event]) -> "RunViews | None":
        """From a run's flat configuration and its history; None for a method without views."""
        method = METHODS.get(str(config.get("method", "lumos")))
        if method is None or not method.views:
            return None
        trained = [event for event in events if event["event"] == "round"]
        lacking = [event for event in trained if event.get("views_lacking")]
        nodes: Counter[str] = Counter()
        for event in lacking:
            nodes.update(event.get("views_lacking_nodes") or ["some nodes"])
        return cls(
            complete=not lacking,
            rounds=len(trained),
            rounds_lacking=len(lacking),
            nodes=dict(sorted(nodes.items())),
            share=float(config.get("view-share", 1.0)),
        )

    def sentence(self) -> str:
        """A sentence for people; empty if nothing was missing."""
        if self.complete:
            return ""
        who = ", ".join(f"{name} in {n} of {self.rounds} rounds" for name, n in self.nodes.items())
        text = f"Views were missing: {who}. These are not the figures of the whole method"
        if self.share < 1.0:
            return f"{text}: view-share = {self.share:g} asked for views of some users only."
        return (
            f"{text}; a run waits for views as long as view-timeout and each node's "
            "prepare-seconds say, and 'lumos views build' writes them beforehand."
        )
