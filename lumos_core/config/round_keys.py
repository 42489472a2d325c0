"""The keys of a run's rounds: whom they ask, when they close, when the run ends."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lumos_core.config.flat import Count, FlatConfig, Fraction, Positive, PositiveFloat, day, key
from lumos_core.config.node_choice import NodeChoice

Day = Annotated[str, AfterValidator(day)]


class RoundKeys(FlatConfig):
    """Rounds"""

    rounds: Positive = key(20, "rounds of training", free=True)
    nodes: str = key(
        "",
        "nodes that take part: names, patterns (shop-*) and tags (tag:eu) with commas between "
        "them; empty: all",
        free=True,
    )
    fraction: Fraction = key(1.0, "share of the nodes that train in a round")
    min_nodes: Positive = key(2, "nodes to wait for before the first round", free=True)
    min_replies: Positive = key(
        2, "valid replies that a round needs; may change on resuming unless dp = distributed"
    )
    start_timeout: PositiveFloat = key(120.0, "seconds to wait for min-nodes", free=True)
    round_timeout: PositiveFloat = key(
        600.0, "seconds until a round ends with the replies that have come", free=True
    )
    max_failed_rounds: Count = key(2, "failed rounds in a row before the run gives up", free=True)
    close_at: PositiveFloat = key(
        1.0,
        "valid replies with which a round closes: up to 1 a share of the nodes that `fraction` "
        "chooses, above 1 a number; never fewer than min-replies; 1: all",
        free=True,
    )
    over_select: Annotated[float, Field(ge=0.0, le=10.0)] = key(
        0.0, "nodes asked beyond those that `fraction` chooses, as a share of them"
    )
    mode: Literal["sync", "async"] = key(
        "sync",
        "sync: a round uses replies to its own model; async: also late ones to earlier models, "
        "with less weight",
    )
    buffer_size: Positive = key(3, "with mode = async: valid replies with which a round closes")
    max_staleness: Count = key(
        20, "with mode = async: a reply to a model older by more rounds is refused"
    )
    evaluation: Literal["leave-one-out", "last-days", "none"] = key(
        "leave-one-out",
        "what is held out to measure models: each user's last two items; what happened from a day "
        "on; or nothing: the last model is the result. Users with fewer than three items take part "
        "with the latter two",
    )
    last_days: Positive = key(
        7,
        "with evaluation = last-days and no evaluate-from: days before the start of the run, by "
        "the server's clock, from which on nothing is trained on",
    )
    evaluate_from: Day = key(
        "",
        "with evaluation = last-days: the first day (UTC, such as 2026-11-22) that is not trained "
        "on; empty: the server takes it from last-days",
    )
    test_from: Day = key(
        "",
        "with evaluation = last-days: the first day (UTC) of the test, which ends the validation; "
        "empty: all held-out days are for validation, and there is no test",
    )
    evaluate_every: Positive = key(
        1,
        "rounds from one evaluation to the next; with mode = async the first and the last model "
        "are evaluated",
    )
    patience: Count = key(
        0, "evaluations without a better NDCG@20 until the run ends; 0: no limit", free=True
    )

    @model_validator(mode="after")
    def _replies_can_come(self) -> Self:
        if self.min_replies > self.min_nodes:
            raise ValueError(
                f"min-replies = {self.min_replies} can never be met with "
                f"min-nodes = {self.min_nodes}; lower min-replies or raise min-nodes"
            )
        return self

    @model_validator(mode="after")
    def _nodes_can_be_chosen(self) -> Self:
        NodeChoice.of(self.nodes)
        return self

    @model_validator(mode="after")
    def _patience_can_be_lost(self) -> Self:
        if self.patience and not self.holds_out:
            raise ValueError(
                f"evaluation = none with patience = {self.patience}: without evaluations no round "
                "is known to be better; choose patience = 0"
            )
        return self

    @model_validator(mode="after")
    def _days_in_order(self) -> Self:
        """Refuse days that would have no effect, or leave a window empty."""
        if self.evaluation != "last-days":
            for name, found in (
                ("evaluate-from", self.evaluate_from), ("test-from", self.test_from)
            ):  # fmt: skip
                if found:
                    raise ValueError(
                        f"{name} = {found} has no effect with evaluation = {self.evaluation}; "
                        "choose evaluation = last-days, or leave it out"
                    )
        elif not self.evaluate_from:
            raise ValueError(
                "evaluation = last-days needs evaluate-from, the first day that is not trained on, "
                "such as evaluate-from=2026-11-22"
            )
        elif self.test_from and self.test_from <= self.evaluate_from:
            raise ValueError(
                f"test-from = {self.test_from} must be after evaluate-from = {self.evaluate_from}, "
                "where validation begins"
            )
        return self

    @property
    def tests(self) -> bool:
        """Whether there are test targets beside those of validation."""
        return self.evaluation == "leave-one-out" or bool(self.test_from)

    @property
    def holds_out(self) -> bool:
        """Whether items are kept from training, to measure models with them."""
        return self.evaluation != "none"

    @model_validator(mode="after")
    def _closes_at_enough(self) -> Self:
        if self.close_at > 1 and self.close_at != int(self.close_at):
            raise ValueError(
                f"close-at = {self.close_at:g}: expected a share up to 1, or a whole number of "
                "replies"
            )
        if 1 < self.close_at < self.min_replies:
            raise ValueError(
                f"close-at = {self.close_at:g} is below min-replies = {self.min_replies}, without "
                "which a round fails; raise close-at or lower min-replies"
            )
        if self.over_select and self.fraction == 1:
            raise ValueError(
                f"over-select = {self.over_select:g} with fraction = 1: all nodes are asked "
                "already; lower fraction, or choose close-at and over-select = 0"
            )
        return self
