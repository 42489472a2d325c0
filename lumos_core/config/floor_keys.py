"""The owner's floor: the keys of a node with which its owner limits what any run may ask of it."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from lumos_core.config.flat import Count, FlatConfig, NonNegative, Positive, key

DP_KINDS = ("none", "central", "distributed", "user")
"""The values of the run's key ``dp``. They protect different things, so none of them is simply
more than another: an owner lists those that suffice."""


def _joined(names: Any) -> Any:
    """A list of ``node.toml`` as one text, the form in which Flower passes it on."""
    if not isinstance(names, list):
        return names
    for name in names:
        if not isinstance(name, str) or "," in name:
            raise ValueError(f"each of the list must be text without a comma, found {name!r}")
    return ",".join(names)


Names = Annotated[str, BeforeValidator(_joined)]


class FloorKeys(FlatConfig):
    """The owner's floor"""

    require_secure_aggregation: bool = key(
        False, "refuse a run in which the server could read a single delta"
    )
    secagg_min_nodes: Annotated[int, Field(ge=2)] = key(
        3, "the smallest number of nodes whose sum this node takes part in"
    )
    allowed_dp: Names = key(
        ",".join(DP_KINDS),
        "kinds of dp that suffice; a kind without secret noise counts as none; a list in node.toml",
    )
    min_noise_multiplier: NonNegative = key(
        0.0,
        "least noise, in units of dp-clip; with dp = distributed, of the noise that this node can "
        "be sure of (docs/privacy.md)",
    )
    max_run_epsilon: NonNegative = key(
        0.0,
        "largest ε that one run may cost a user of this node; 0: no limit; refuses dp = none and "
        "central, whose ε a node cannot count",
    )
    max_total_epsilon: NonNegative = key(
        0.0, "the same over all runs of this node together; 0: no limit"
    )
    epsilon_delta: Annotated[float, Field(gt=0.0, lt=1.0)] = key(
        1e-5, "δ of both limits, whatever dp-delta the run has; choose it well below 1 / users"
    )
    min_users: Positive = key(1, "fewest users of this node that a delta may speak for")
    allowed_llms: Names = key(
        "",
        "language models that a run's llm may name beside smollm2: folders, .gguf files or hub "
        "ids, spelled as the run spells them; a list in node.toml",
    )
    max_local_epochs: Count = key(0, "most epochs in a round; 0: no limit")
    max_training_seconds: NonNegative = key(
        0.0, "most seconds of training in a round; then nothing is sent; 0: no limit"
    )
    max_rounds_a_day: Count = key(0, "most trainings in a day (UTC), over all runs; 0: no limit")
    max_bytes_a_day: Count = key(0, "most bytes sent in a day (UTC), over all runs; 0: no limit")

    @property
    def dp_kinds(self) -> frozenset[str]:
        """``allowed-dp`` as a set."""
        return frozenset(_parts(self.allowed_dp))

    @property
    def llms(self) -> frozenset[str]:
        """``allowed-llms`` as a set."""
        return frozenset(_parts(self.allowed_llms))

    @model_validator(mode="after")
    def _kinds_exist(self) -> Self:
        unknown = sorted(self.dp_kinds - set(DP_KINDS))
        if unknown or not self.dp_kinds:
            raise ValueError(
                f"allowed-dp = {self.allowed_dp!r}: found {', '.join(unknown) or 'no kind'}, "
                f"expected some of {', '.join(DP_KINDS)}"
            )
        return self


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
