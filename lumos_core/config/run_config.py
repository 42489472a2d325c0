"""The keys of a run: default, limits and meaning of each. Defaults are the values that measured
best.

Keys are in groups, one class each; :class:`RunConfig` has all of them. A function that needs only
one group says so in its signature. A new key is one field here and one line in ``pyproject.toml``,
where Flower requires it; ``make docs`` writes it into ``docs/configuration.md``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lumos_core import plugins
from lumos_core.config.flat import (
    Count,
    FlatConfig,
    Fraction,
    LogFormat,
    LogLevel,
    NonNegative,
    Positive,
    PositiveFloat,
    Probability,
    Scalar,
    kebab,
    key,
)
from lumos_core.config.methods import METHODS
from lumos_core.config.names import OneOf
from lumos_core.config.round_keys import RoundKeys

VIEW_WRITERS = ("llm", "tfidf", "random", "shuffled")
SASREC, LIGR, BAG = "sasrec", "ligr", "bag"
"""Names of the encoders that come with LUMOS."""
ENCODERS = (SASREC, LIGR, BAG)
CODECS = ("float32", "float16", "int8", "top-rows", "top-rows-int8")
RULES_OF_SUMS = ("mean",)
RULES_OF_SINGLE_DELTAS = (
    "median-encoder", "median", "trimmed-mean", "multi-krum", "sparse-median",
    "sparse-trimmed-mean",
)  # fmt: skip
RULES_THAT_AVERAGE_ROWS = ("mean", "median-encoder")
"""Rules that take the weighted mean of item embeddings."""


CHOSEN = -1.0
"""Value of ``title-weight`` that has it chosen."""
TITLE_WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.8)
"""Weights to choose from. Nodes report sums for each of them, so there are few."""

MethodName = Annotated[str, OneOf(tuple(METHODS))]
WriterName = Annotated[str, OneOf(VIEW_WRITERS, "views")]
EncoderName = Annotated[str, OneOf(ENCODERS, "encoder")]
CodecName = Annotated[str, OneOf(CODECS, "codec")]
RuleName = Annotated[str, OneOf(("auto", *RULES_OF_SUMS, *RULES_OF_SINGLE_DELTAS), "aggregation")]


class ModelKeys(FlatConfig):
    """The encoder"""

    encoder: EncoderName = key(
        SASREC,
        "model that encodes a history: SASRec, the same with gated blocks, or a bag of the last "
        "five items; plug-ins provide others",
    )
    dim: Positive = key(64, "size of item embeddings and hidden states")
    layers: Positive = key(2, "transformer blocks")
    heads: Positive = key(2, "attention heads; dim must be a multiple of them")
    max_len: Annotated[int, Field(ge=2, le=1024)] = key(50, "last items of a history that are read")
    dropout: Probability = key(0.3, "dropout rate in training")
    item_bias: Literal["auto", "none", "learned"] = key(
        "none",
        "learned: a trained number for each item in its score, which learns how popular the item "
        "is; auto: learned with lumos and the -plus methods, none with others",
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim = {self.dim} must be a multiple of heads = {self.heads}")
        return self

    @model_validator(mode="after")
    def _encoder_has_bias(self) -> Self:
        if self.item_bias == "learned" and self.encoder not in ENCODERS:
            raise ValueError(
                f"item-bias = learned needs encoder = {' or '.join(ENCODERS)}, found {self.encoder}"
            )
        return self


class RankingKeys(FlatConfig):
    """Ranking"""

    title_weight: Annotated[float, Field(ge=-1.0, le=10.0)] = key(
        -1.0,
        "weight of the titles' nearness in rankings, beside the encoder's scores; -1: lumos and "
        "the -plus methods choose it on the validation targets, others use 0",
    )

    @model_validator(mode="after")
    def _weight_or_choice(self) -> Self:
        if -1 < self.title_weight < 0:
            raise ValueError(
                f"title-weight = {self.title_weight:g}: expected 0 or more, or -1 to have it chosen"
            )
        return self


class TrainingKeys(FlatConfig):
    """Local training"""

    local_epochs: Positive = key(3, "epochs that a node trains in a round")
    batch_size: Positive = key(32, "users in a step")
    learning_rate: PositiveFloat = key(2e-3, "learning rate of Adam, on the node")
    weight_decay: NonNegative = key(
        1e-5, "weight decay of Adam, on the node; not of items left alone or not drawn"
    )
    grad_clip: PositiveFloat = key(5.0, "largest L2 norm of a step's gradient")
    loss: Literal["auto", "full", "sampled"] = key(
        "auto", "next-item loss: softmax over the whole catalog, or over drawn negatives"
    )
    full_softmax_max_items: Positive = key(
        5_000, "with loss = auto: full softmax up to this many items"
    )
    num_negatives: Positive = key(512, "items drawn for the sampled softmax, shared by the batch")
    item_rows: Literal["auto", "all", "met"] = key(
        "auto",
        "item embeddings that a node trains: all, or those of items in its histories; auto: met "
        "with lumos and the -plus methods, all with others and with dp = user",
    )


class ViewKeys(FlatConfig):
    """Views and contrastive learning"""

    views: WriterName = key(
        "llm", "who writes views; tfidf, random and shuffled (another user's) are controls"
    )
    contrastive_weight: NonNegative = key(0.05, "λ: weight of the contrastive loss")
    temperature: PositiveFloat = key(0.2, "τ: temperature of the contrastive loss")
    view_target_weight: NonNegative = key(
        0.0, "weight of future items as extra targets of the last position"
    )
    view_items: Positive = key(5, "new items in a future view")
    view_seed: Count = key(
        0, "seed of views; separate from seed, because views cost more than training"
    )
    view_share: Fraction = key(
        1.0, "share of a node's users who get views; below 1 for smoke runs only"
    )
    view_timeout: NonNegative = key(
        3_600.0, "seconds to wait for views before round 1; 0: do not wait", free=True
    )
    use_future: bool = key(True, "false: an ablation without this view")
    use_paraphrase: bool = key(True, "false: an ablation without this view")
    use_counterfactual: bool = key(True, "false: an ablation without this view")
    semantic_start: Literal["none", "llm", "tfidf"] = key(
        "llm", "starting point of item embeddings: random numbers, or the titles' vectors"
    )
    semantic_scale: PositiveFloat = key(
        0.1, "standard deviation of item embeddings that start from the titles' vectors"
    )


class LLMKeys(FlatConfig):
    """The local language model"""

    llm: str = key("smollm2", "smollm2 (bundled), Hugging Face id, local folder, or .gguf file")
    llm_quantization: Literal["none", "8bit", "4bit"] = key("none", "quantization by bitsandbytes")
    llm_noun: str = key(
        "products bought by a customer", "what a history is, in the domain's words, for prompts"
    )
    catalog_artefact: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = key(
        "",
        "digest of the catalog.safetensors beside catalog.tsv (lumos catalog show): another one is "
        "refused, and nodes without one fetch it from the server; empty: any that fits is used",
    )
    llm_mode: Literal["auto", "score", "trie", "free"] = key(
        "auto",
        "score: judge items by likelihood; trie: write titles, restricted to the catalog; free: "
        "write freely; auto: score up to 1 B weights, trie above",
    )
    llm_judges: Literal["future", "all"] = key(
        "future", "what is judged with llm-mode = score; all reads three times the tokens"
    )


class AggregationKeys(FlatConfig):
    """Aggregation and compression"""

    aggregation: RuleName = key(
        "auto",
        "rule that makes one delta of many; auto: median-encoder, or mean where secure-aggregation "
        "or dp (central, distributed) needs a plain sum",
    )
    clip: Literal["auto", "none", "norm", "rows", "norm+rows"] = key(
        "auto",
        "what bounds a single delta; auto: norm+rows, or none where secure-aggregation or dp "
        "(central, distributed) needs a plain sum",
    )
    clip_norm_factor: PositiveFloat = key(
        1.0, "largest norm of a delta, in multiples of the round's median norm"
    )
    clip_row_factor: PositiveFloat = key(
        1.25, "largest norm of an item row, in multiples of a typical row's norm"
    )
    max_weight_ratio: Annotated[float, Field(ge=1.0)] = key(
        1.0, "largest weight of a node, in multiples of the median weight"
    )
    weighting: Literal["examples", "users", "uniform"] = key(
        "users", "what determines a node's weight"
    )
    row_mean: Literal["all", "movers"] = key(
        "all",
        "the nodes over which the change of an item's embedding is averaged: all of a round, or "
        "those that moved it; movers helps where a node has one user or a few",
    )
    server_optimizer: Literal["sgd", "momentum", "adam"] = key(
        "momentum", "how the model moves along the aggregated delta"
    )
    server_learning_rate: PositiveFloat = key(1.0, "learning rate of the server's optimiser")
    server_momentum: Probability = key(0.8, "momentum of the server's optimiser; β1 of adam")
    max_delta_norm: PositiveFloat = key(1_000.0, "a delta with a larger L2 norm is refused")
    delta_codec: CodecName = key(
        "float32", "encoding of deltas on the wire; int8 sends 3.8 times fewer bytes"
    )
    top_rows_share: Fraction = key(
        0.25, "share of the item table's rows that the top-rows codecs send"
    )
    error_feedback: bool = key(
        False, "keep what the codec did not send and add it to the node's next delta"
    )


class PrivacyKeys(FlatConfig):
    """Differential privacy"""

    dp: Literal["none", "central", "distributed", "user"] = key(
        "none", "who adds noise, and whom it hides (docs/privacy.md)"
    )
    dp_clip: PositiveFloat = key(
        1.0, "largest L2 norm of a node's delta; with dp = user, of a user's gradient"
    )
    dp_noise_multiplier: NonNegative = key(
        1.0, "noise of a round in units of dp-clip; with dp = user, of a step"
    )
    dp_delta: Annotated[float, Field(gt=0.0, lt=1.0)] = key(
        1e-5, "δ; choose it well below 1 / nodes, with dp = user well below 1 / users"
    )
    max_epsilon: NonNegative = key(
        0.0, "the run stops before the round that would exceed it; 0: no limit", free=True
    )
    dp_noise_seed: Annotated[int, Field(ge=-1)] = key(
        -1, "-1: secret noise; 0 or more: noise from this public seed, for tests only"
    )


class SecureKeys(FlatConfig):
    """Secure aggregation"""

    secure_aggregation: bool = key(
        False, "the server learns sums over nodes, but no single delta (docs/secure-aggregation.md)"
    )
    secagg_threshold: Annotated[float, Field(gt=0.5, le=1.0)] = key(
        0.66, "share of the nodes that must help to unmask a sum"
    )
    secagg_clip: PositiveFloat = key(
        10.0, "L2 norm to which a node clips its delta before masking it"
    )
    secagg_bits: Annotated[int, Field(ge=8, le=30)] = key(
        24, "bits of a value; 2^(32 - bits) nodes fit into a sum"
    )
    secagg_max_weight: Annotated[int, Field(ge=1, le=10**6)] = key(
        1_000, "largest weight that a node gets for its count"
    )


class WatchKeys(FlatConfig):
    """Watching the run, on the server"""

    log_format: LogFormat = key(
        "text", "format of the server's log; json: one object per line (docs/monitoring.md)",
        free=True,
    )  # fmt: skip
    log_level: LogLevel = key("info", "level of the server's log", free=True)
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = key(
        0, "port of the Prometheus endpoint; 0: no endpoint", free=True
    )
    metrics_host: str = key(
        "127.0.0.1",
        "address of the Prometheus endpoint; it has no password: use loopback or a private network",
        free=True,
    )
    tracking: Literal["none", "tensorboard", "mlflow"] = key(
        "none", "also record the run with this library", free=True
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

    method: MethodName = key(
        "lumos", "what is trained; lumos, fedavg-plus, confedsrs-plus, confedsrs or fedavg"
    )
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
        if self.row_mean != "movers":
            return self
        if self._needs_plain_sum:
            reason = "secure-aggregation = true" if self.secure_aggregation else f"dp = {self.dp}"
            raise ValueError(
                f"row-mean = movers with {reason}: only a plain sum over nodes is protected, and "
                "it does not show which of them moved a row; choose row-mean = all"
            )
        if self.rule not in RULES_THAT_AVERAGE_ROWS:
            raise ValueError(
                f"row-mean = movers with aggregation = {self.rule}, which takes no mean of item "
                "embeddings; choose row-mean = all, or aggregation = "
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


FREE_KEYS = frozenset(
    kebab(name)
    for name, field in RunConfig.model_fields.items()
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("free")
)
"""Keys that may change when a run is resumed: how long it runs, how many nodes it waits for, where
its files are, how it is watched. ``min-replies`` may change in most runs, see :func:`free_keys`."""
ADDED_LATER: dict[str, Scalar] = {
    "encoder": SASREC,
    "title-weight": 0.0,
    "item-rows": "all",
    "item-bias": "none",
    "nodes": "",
    "close-at": 1.0,
    "over-select": 0.0,
    "mode": "sync",
    "buffer-size": 3,
    "max-staleness": 20,
    "evaluation": "leave-one-out",
    "last-days": 7,
    "evaluate-from": "",
    "test-from": "",
    "catalog-artefact": "",
    "start-model": "",
    "row-mean": "all",
}
"""Keys that runs of version 0.1 do not have, with the values that correspond to those runs."""


def learns_bias_by_itself(method: str, encoder: str) -> bool:
    """What ``item-bias = auto`` means for a method and an encoder."""
    return METHODS[method].plus and encoder in ENCODERS


def with_later_keys(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A saved flat configuration with the keys that did not exist when it was saved."""
    return {**ADDED_LATER, **flat}


def resolved(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A saved flat configuration, complete, and ``item-bias = auto`` as what it means there: equal
    for two runs that differ in how their configurations say the same."""
    whole = with_later_keys(flat)
    if whole["item-bias"] == "auto" and whole.get("method") in METHODS:
        learned = learns_bias_by_itself(whole["method"], whole["encoder"])
        whole["item-bias"] = "learned" if learned else "none"
    return whole


def free_keys(flat: Mapping[str, Scalar]) -> frozenset[str]:
    """Keys of a flat configuration that may change when its run is resumed.

    With ``dp = distributed`` the scale of every node's noise is computed from ``min-replies``. If
    it changed, a repeated round could send the same noise with two different scales, and from both
    replies the noise could be computed and removed. With other values of ``dp`` the key only says
    how many replies a round needs, and the number of nodes may have changed.
    """
    return FREE_KEYS if flat["dp"] == "distributed" else FREE_KEYS | {"min-replies"}


def fixed(flat: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The part of a configuration that identifies a run: all keys except :func:`free_keys`.

    Keys of :data:`ADDED_LATER` count only if their values differ from the ones given there, so that
    a run that began before they existed is still the same run.
    """
    free = free_keys(flat)
    return {
        key: value
        for key, value in flat.items()
        if key not in free and (key not in ADDED_LATER or value != ADDED_LATER[key])
    }


def first_difference(saved: Mapping[str, Scalar], wanted: Mapping[str, Scalar]) -> str | None:
    """The first key that makes ``wanted`` another run than ``saved``; both have all keys."""
    free = free_keys(saved)
    changed = (key for key, value in saved.items() if key not in free and wanted[key] != value)
    return next(changed, None)


def group_keys(group: type[FlatConfig]) -> dict[str, Any]:
    """The keys that a group declares itself: field name → field."""
    inherited = {name for base in group.__mro__[1:] for name in getattr(base, "model_fields", {})}
    return {name: f for name, f in group.model_fields.items() if name not in inherited}
