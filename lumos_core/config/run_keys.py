"""The keys of a run: default, limits and meaning of each. Defaults are the values that measured
best.

Keys are in groups, one class each; :class:`lumos_core.config.RunConfig` has all of them. A function
that needs only one group says so in its signature. A new key is one field here and one line in
``pyproject.toml``, where Flower requires it; ``make docs`` writes it into
``docs/configuration.md``.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

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
    key,
)
from lumos_core.config.methods import METHODS
from lumos_core.config.names import OneOf

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
    row_mean: Literal["all", "root", "movers"] = key(
        "all",
        "the nodes over which the change of an item's embedding is averaged: all of a round, or "
        "those that moved it, which helps where a node has one user or a few; root: between the "
        "two, the mean over movers times the root of their share",
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
