"""The configuration of a run: all groups of keys, what "auto" means in them, and which values do
not go together."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from lumos_core import plugins
from lumos_core.config.flat import FlatConfig, Scalar, key
from lumos_core.config.methods import METHODS
from lumos_core.config.names import OneOf
from lumos_core.config.older_runs import learns_bias_by_itself, with_later_keys
from lumos_core.config.round_keys import RoundKeys
from lumos_core.config.run_keys import (
    CHOSEN,
    ENCODERS,
    RULES_OF_SINGLE_DELTAS,
    RULES_OF_SUMS,
    RULES_THAT_AVERAGE_ROWS,
    TITLE_WEIGHTS,
    AggregationKeys,
    LLMKeys,
    MethodName,
    ModelKeys,
    PrivacyKeys,
    RankingKeys,
    SecureKeys,
    TrainingKeys,
    ViewKeys,
    WatchKeys,
)


class RunConfig(
    WatchKeys,
    SecureKeys,
    PrivacyKeys,
    AggregationKeys,
    RoundKeys,
    LLMKeys,
    ViewKeys,
    TrainingKeys,
    RankingKeys,
    ModelKeys,
):
    """The configuration of a run, the same for the server and all nodes.

    >>> config = RunConfig.from_flat({"rounds": 5, "learning-rate": 0.001})
    >>> config.rounds, config.method, config.rule
    (5, 'lumos', 'median-encoder')
    >>> RunConfig.from_flat({"round": 5})
    Traceback (most recent call last):
        ...
    lumos_core.errors.ConfigError: unknown key 'round' (did you mean 'rounds'?)
    """

    method: MethodName = key("lumos", "what is trained")
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = key(
        0, "determines data split, sampling of nodes and training"
    )
    catalog: str = key("", "path of catalog.tsv on the server's machine", free=True)
    run_dir: str = key(
        "", "folder on the server's machine for checkpoints, history and summary", free=True
    )
    start_model: Annotated[str, Field(pattern="^([0-9a-f]{16})?$")] = key(
        "", "digest of the model that the run starts from, which `--from` sets; empty: a new model"
    )

    @classmethod
    def from_saved(cls, flat: Mapping[str, Any]) -> Self:
        """The configuration of a run that may have begun before some keys existed: those have the
        values of :data:`ADDED_LATER`, not today's defaults.

        Raises:
            ConfigError: a key is unknown, or a value is not allowed.
        """
        return cls.from_flat(with_later_keys(flat))

    @property
    def has_views(self) -> bool:
        """Whether the method trains on views of a writer."""
        return METHODS[self.method].views

    @property
    def objective(self) -> str:
        """The loss that the method adds to the next-item loss."""
        return METHODS[self.method].objective

    @property
    def title_weights(self) -> tuple[float, ...]:
        """The weights of the titles' nearness with which a model is evaluated on the validation
        targets; the best one is used from then on."""
        if self.title_weight != CHOSEN:
            return (self.title_weight,)
        return TITLE_WEIGHTS if METHODS[self.method].plus else (0.0,)

    @property
    def trains_met_rows(self) -> bool:
        """Whether a node leaves the embeddings of items alone that none of its histories has."""
        if self.item_rows != "auto":
            return self.item_rows == "met"
        return METHODS[self.method].plus and self.dp != "user"

    @property
    def learns_item_bias(self) -> bool:
        """Whether the model has a trained number for each item in its score."""
        if self.item_bias != "auto":
            return self.item_bias == "learned"
        return learns_bias_by_itself(self.method, self.encoder)

    @property
    def keeps_counts_back(self) -> bool:
        """Whether a node reports about its users only what the protocol cannot do without."""
        return self.secure_aggregation or self.dp in ("distributed", "user")

    def without_paths(self) -> dict[str, Scalar]:
        """Flat, without the keys that name folders of one machine."""
        return {k: v for k, v in self.to_flat().items() if k not in ("catalog", "run-dir")}

    @property
    def rule(self) -> str:
        """``aggregation`` with "auto" resolved."""
        if self.aggregation != "auto":
            return self.aggregation
        return "mean" if self._needs_plain_sum else "median-encoder"

    @property
    def clipping(self) -> str:
        """``clip`` with "auto" resolved."""
        if self.clip != "auto":
            return self.clip
        return "none" if self._needs_plain_sum else "norm+rows"

    @property
    def _needs_plain_sum(self) -> bool:
        return self.secure_aggregation or self.dp in ("central", "distributed")

    # --- combinations of keys of several groups

    @model_validator(mode="after")
    def _weight_can_be_chosen(self) -> Self:
        if not self.holds_out and len(self.title_weights) > 1:
            raise ValueError(
                f"evaluation = none with title-weight = {self.title_weight:g}: it is chosen on the "
                f"validation targets, and there are none; choose one of {TITLE_WEIGHTS}, such as "
                "the title_weight in the summary.json of an earlier run"
            )
        return self

    @model_validator(mode="after")
    def _late_replies_can_count(self) -> Self:
        """Refuse what does not hold for replies to different models in one round."""
        if self.mode != "async":
            return self
        for wrong, found, why, repair in (
            (self.secure_aggregation, "secure-aggregation = true",
             "masks cancel only among nodes that were asked together", "mode = sync"),
            (self.dp == "distributed", "dp = distributed",
             "a late reply counts less, and so would the noise in it, which all need",
             "dp = central or user, or mode = sync"),
            (self.close_at != 1, f"close-at = {self.close_at:g}",
             "a round closes with buffer-size replies", "close-at = 1"),
            (self.over_select > 0, f"over-select = {self.over_select:g}",
             "no reply is ignored for being late", "over-select = 0"),
            (self.patience > 0, f"patience = {self.patience}",
             "nobody stops to evaluate between the rounds", "patience = 0"),
            (self.buffer_size < self.min_replies, f"buffer-size = {self.buffer_size}",
             f"a round with fewer than min-replies = {self.min_replies} fails",
             f"buffer-size = {self.min_replies} or more"),
            (self.buffer_size < 3 and needs_single_deltas(self.rule),
             f"buffer-size = {self.buffer_size} and aggregation = {self.rule}",
             "two or fewer deltas have no typical one among them",
             "buffer-size = 3 or more, or aggregation = mean"),
        ):  # fmt: skip
            if wrong:
                raise ValueError(f"mode = async with {found}: {why}; choose {repair}")
        return self

    @model_validator(mode="after")
    def _movers_are_known(self) -> Self:
        """Refuse a mean over the nodes that moved a row where nobody can tell who they are."""
        if self.row_mean == "all":
            return self
        if self._needs_plain_sum:
            reason = "secure-aggregation = true" if self.secure_aggregation else f"dp = {self.dp}"
            raise ValueError(
                f"row-mean = {self.row_mean} with {reason}: only a plain sum over nodes is "
                "protected, and it does not show which of them moved a row; choose row-mean = all"
            )
        if self.rule not in RULES_THAT_AVERAGE_ROWS:
            raise ValueError(
                f"row-mean = {self.row_mean} with aggregation = {self.rule}, which takes no mean "
                "of item embeddings; choose row-mean = all, or aggregation = "
                f"{' or '.join(RULES_THAT_AVERAGE_ROWS)}"
            )
        return self

    @model_validator(mode="after")
    def _some_view_is_positive(self) -> Self:
        if self.objective == "tri-view" and not (
            self.use_future or self.use_paraphrase or self.contrastive_weight == 0
        ):
            raise ValueError(
                "use-future and use-paraphrase are both false: the tri-view loss has no positive; "
                "turn one on or set contrastive-weight = 0"
            )
        return self

    @model_validator(mode="after")
    def _privacy_holds(self) -> Self:
        """The conditions that the proofs of (ε, δ) need."""
        if self.dp in ("central", "distributed"):
            for name, found, needed in (
                ("weighting", self.weighting, "uniform"),
                ("aggregation", self.rule, "mean"),
                ("clip", self.clipping, "none"),
            ):
                if found != needed:
                    raise ValueError(
                        f"dp = {self.dp} bounds what one node adds to a plain sum: it needs "
                        f"{name} = {needed}, found {found}"
                    )
        if self.dp == "user" and self.item_rows == "met":
            raise ValueError(
                "dp = user hides which items a user met, item-rows = met shows which items a node "
                "met; choose item-rows = all or auto"
            )
        if self.dp == "user" and self.weighting == "examples":
            raise ValueError(
                "dp = user keeps the numbers of examples secret: it needs weighting = users or "
                "uniform, found examples"
            )
        if self.dp == "user" and self.views == "shuffled":
            raise ValueError(
                "dp = user protects one user's history and views; views = shuffled gives them to "
                "another user"
            )
        if self.dp == "user" and not METHODS[self.method].per_user:
            allowed = " or ".join(sorted(name for name, m in METHODS.items() if m.per_user))
            raise ValueError(
                f"dp = user clips every user's gradient, but {self.method} contrasts users with "
                f"each other; choose method = {allowed}, or dp = central or distributed"
            )
        if self.dp == "user" and self.encoder not in ENCODERS:
            raise ValueError(
                "dp = user needs the gradient of each user by itself, which is known to hold for "
                f"encoder = {' or '.join(ENCODERS)} only, found {self.encoder}"
            )
        if self.max_epsilon and (self.dp == "none" or not self.dp_noise_multiplier):
            raise ValueError(
                f"max-epsilon = {self.max_epsilon:g} needs dp (found {self.dp}) and a positive "
                f"dp-noise-multiplier (found {self.dp_noise_multiplier:g})"
            )
        return self

    @model_validator(mode="after")
    def _sums_can_be_secret(self) -> Self:
        """Refuse keys that need single deltas, and values with which a sum would not be secret or
        would not fit."""
        if not self.secure_aggregation:
            return self
        if needs_single_deltas(self.rule):
            raise ValueError(
                f"secure-aggregation = true needs aggregation = mean, found {self.rule}: "
                "it compares single deltas"
            )
        for name, found, needed, why in (
            ("clip", self.clipping, "none", "it measures single deltas; secagg-clip bounds them"),
            ("delta-codec", self.delta_codec, "float32", "masked values cannot be compressed"),
        ):
            if found != needed:
                raise ValueError(
                    f"secure-aggregation = true needs {name} = {needed}, found {found}: {why}"
                )
        if self.close_at != 1 or self.over_select:
            raise ValueError(
                f"secure-aggregation = true needs close-at = 1 and over-select = 0, found "
                f"{self.close_at:g} and {self.over_select:g}: for each node that a sum leaves "
                "behind, the others have to give up shares of its key; lower round-timeout instead"
            )
        if self.min_replies < 3:
            raise ValueError(
                f"secure-aggregation = true needs min-replies ≥ 3, found {self.min_replies}: in a "
                "sum of two, each node knows the other's part"
            )
        if self.min_replies > 2 ** (32 - self.secagg_bits):
            raise ValueError(
                f"secure-aggregation = true: secagg-bits = {self.secagg_bits} leave room for "
                f"{2 ** (32 - self.secagg_bits)} nodes, min-replies = {self.min_replies}; lower "
                "secagg-bits"
            )
        if self.dp == "central" and self.secagg_clip < self.dp_clip:
            raise ValueError(
                f"secure-aggregation = true: secagg-clip = {self.secagg_clip:g} must not be below "
                f"dp-clip = {self.dp_clip:g}"
            )
        return self


GROUPS: tuple[type[FlatConfig], ...] = (
    RunConfig, ModelKeys, RankingKeys, TrainingKeys, ViewKeys, LLMKeys, RoundKeys, AggregationKeys,
    PrivacyKeys, SecureKeys, WatchKeys,
)  # fmt: skip
"""The groups in the order of the reference; RunConfig here means only the keys that it declares
itself."""


def needs_single_deltas(rule: str) -> bool:
    """Whether an aggregation rule compares the nodes' deltas, so that their sum is not enough.

    Raises:
        ConfigError: the rule is a plug-in that cannot be loaded.
    """
    if rule in RULES_OF_SUMS or rule in RULES_OF_SINGLE_DELTAS:
        return rule in RULES_OF_SINGLE_DELTAS
    return bool(plugins.load("aggregation", rule).needs_single_deltas)


def load_plugins(config: RunConfig) -> list[Any]:
    """The objects of all plug-ins that a run names; most runs name none.

    Raises:
        ConfigError: one cannot be loaded.
    """
    names = [
        (one_of, getattr(config, name))
        for name, field in RunConfig.model_fields.items()
        for one_of in field.metadata
        if isinstance(one_of, OneOf)
    ]
    return [
        plugins.load(one_of.kind, value)
        for one_of, value in names
        if one_of.kind and value not in one_of.known
    ]


def group_keys(group: type[FlatConfig]) -> dict[str, Any]:
    """The keys that a group declares itself: field name → field."""
    inherited = {name for base in group.__mro__[1:] for name in getattr(base, "model_fields", {})}
    return {name: f for name, f in group.model_fields.items() if name not in inherited}
