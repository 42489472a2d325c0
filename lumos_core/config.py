"""The configuration of a run and of a node: flat mappings in, validated frozen objects out.

Flower hands both over as flat mappings of kebab-case keys to ``str | int | float | bool``
(``[tool.flwr.app.config]`` and ``--node-config``). Unknown keys, wrong types, values out of range
and impossible combinations raise :class:`~lumos_core.errors.ConfigError` naming the key.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lumos_core.errors import ConfigError

Scalar = str | int | float | bool
Method = Literal["lumos", "confedsrs", "fedavg"]
Codec = Literal["float32", "float16", "int8", "top-rows", "top-rows-int8"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]

NODE_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What a node may be called, as a regular expression: it becomes part of file names and logs."""
NODE_NAMES = "LUMOS_NODE_NAMES"
"""In the environment of a deployed ServerApp: the file with the names of registered nodes."""
SIMULATION_DATA = "LUMOS_SIMULATION_DATA"
"""In the environment of virtual nodes: the folder of node-0/, node-1/, …"""

FREE_KEYS = frozenset(
    {
        "rounds",
        "patience",
        "min-nodes",
        "start-timeout",
        "round-timeout",
        "view-timeout",
        "max-failed-rounds",
        "max-epsilon",
        "catalog",
        "run-dir",
        "log-format",
        "log-level",
        "metrics-port",
        "metrics-host",
        "tracking",
    }
)
"""Keys that may change when a run is resumed: how long, how many nodes it waits for, where its
files lie, who watches it. So may ``min-replies``, but not always: see :func:`free_keys`."""


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class FlatConfig(BaseModel):
    """Base of both configurations: frozen, strict about names, flat in and out."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=_kebab,
        validate_by_alias=True,
        validate_by_name=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Self:
        """Validate a flat kebab-case mapping.

        Raises:
            ConfigError: naming every offending key, the value found and what was expected.
        """
        try:
            return cls.model_validate(dict(flat))
        except ValidationError as error:
            raise ConfigError(_explain(error, cls)) from None

    def to_flat(self) -> dict[str, Scalar]:
        """The mapping that :meth:`from_flat` turns back into an equal object."""
        return self.model_dump(by_alias=True)

    def replace(self, **changes: Any) -> Self:
        """A validated copy with some fields (snake_case names) changed."""
        renamed = {_kebab(name): value for name, value in changes.items()}
        return type(self).from_flat({**self.to_flat(), **renamed})


class RunConfig(FlatConfig):
    """What every party of a run has to agree on. Defaults are what measured best."""

    # --- what is run
    method: Method = "lumos"
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    catalog: str = ""  # path of catalog.tsv on the server's machine
    run_dir: str = ""  # folder on the server's machine for checkpoints, history, summary

    # --- SASRec
    dim: Positive = 64
    layers: Positive = 2
    heads: Positive = 2
    max_len: Annotated[int, Field(ge=2, le=1024)] = 50
    dropout: Probability = 0.3

    # --- local training
    local_epochs: Positive = 3
    batch_size: Positive = 32
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegative = 1e-5
    grad_clip: PositiveFloat = 5.0
    loss: Literal["auto", "full", "sampled"] = "auto"
    full_softmax_max_items: Positive = 5_000  # "auto": full softmax up to this many items
    num_negatives: Positive = 512  # shared by the batch, for the sampled softmax

    # --- views and contrastive learning
    views: Literal["llm", "tfidf", "random", "shuffled"] = "llm"  # the last three are controls
    contrastive_weight: NonNegative = 0.05  # lambda
    temperature: PositiveFloat = 0.2  # tau
    view_target_weight: NonNegative = 0.2  # future items as extra targets of the last position
    view_items: Positive = 5  # new items in a future view
    view_seed: Annotated[int, Field(ge=0)] = 0  # apart from `seed`: views cost more than training
    view_share: Fraction = 1.0  # of a node's users who get views; below 1 for smoke runs only
    view_timeout: NonNegative = 3_600.0  # seconds for views before round 1; 0: begin without
    use_future: bool = True  # ablations
    use_paraphrase: bool = True
    use_counterfactual: bool = True
    semantic_start: Literal["none", "llm", "tfidf"] = "llm"  # initial item embeddings from titles
    semantic_scale: PositiveFloat = 0.1  # standard deviation of that start

    # --- the local LLM (a node may choose another one with --node-config)
    llm: str = "smollm2"  # "smollm2" (bundled), Hugging Face id, local folder, or .gguf file
    llm_quantization: Literal["none", "8bit", "4bit"] = "none"
    llm_noun: str = "products bought by a customer"  # what a history is, in the domain's words
    llm_mode: Literal["auto", "score", "trie", "free"] = "auto"  # auto: score up to 1 B weights
    llm_judges: Literal["future", "all"] = "future"  # in mode score; "all" reads thrice the tokens

    # --- rounds
    rounds: Positive = 20
    fraction: Fraction = 1.0  # share of the nodes that train in a round
    min_nodes: Positive = 2  # wait for this many before the first round
    min_replies: Positive = 2  # valid replies a round needs
    start_timeout: PositiveFloat = 120.0  # seconds to wait for min-nodes
    round_timeout: PositiveFloat = 600.0  # seconds until a round ends with who has answered
    max_failed_rounds: Annotated[int, Field(ge=0)] = 2  # in a row, before the run gives up
    evaluate_every: Positive = 1
    patience: Annotated[int, Field(ge=0)] = 0  # evaluations without a better NDCG@20; 0 = endless

    # --- aggregation
    # "auto": bounds on one node, but none where single deltas are hidden or proofs rest on a sum
    aggregation: Literal[
        "auto", "mean", "median-encoder", "median", "trimmed-mean", "multi-krum", "sparse-median",
        "sparse-trimmed-mean",
    ] = "auto"  # fmt: skip
    clip: Literal["auto", "none", "norm", "rows", "norm+rows"] = "auto"
    clip_norm_factor: PositiveFloat = 1.0  # a delta's norm at most, in the round's medians
    clip_row_factor: PositiveFloat = 1.25  # an item row's norm at most, in typical ones
    max_weight_ratio: Annotated[float, Field(ge=1.0)] = 1.0  # a node's weight, in median weights
    weighting: Literal["examples", "users", "uniform"] = "users"
    server_optimizer: Literal["sgd", "momentum", "adam"] = "momentum"
    server_learning_rate: PositiveFloat = 1.0
    server_momentum: Probability = 0.8
    max_delta_norm: PositiveFloat = 1_000.0  # L2; a reply beyond it is rejected as absurd
    delta_codec: Codec = "float32"
    top_rows_share: Fraction = 0.25  # of the item table's rows that the top-rows codecs send
    error_feedback: bool = False  # what a codec left out is kept and added to the next delta

    # --- differential privacy (docs/privacy.md)
    dp: Literal["none", "central", "distributed", "user"] = "none"
    dp_clip: PositiveFloat = 1.0  # L2 of a node's delta; with dp = user of a user's gradient
    dp_noise_multiplier: NonNegative = 1.0  # noise / dp-clip: of a round; with dp = user of a step
    dp_delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5  # well below 1 / nodes (or users)
    max_epsilon: NonNegative = 0.0  # the run stops before the round that would exceed it; 0 = never
    dp_noise_seed: Annotated[int, Field(ge=-1)] = -1  # -1: secret; ≥ 0: public, for tests only

    # --- secure aggregation (docs/secure-aggregation.md)
    secure_aggregation: bool = False  # the server learns sums over nodes, and no single delta
    secagg_threshold: Annotated[float, Field(gt=0.5, le=1.0)] = 0.66  # of the nodes, to unmask
    secagg_clip: PositiveFloat = 10.0  # L2 to which a node clips its delta before masking it
    secagg_bits: Annotated[int, Field(ge=8, le=30)] = 24  # of a value; 2^(32 - bits) nodes fit
    secagg_max_weight: Annotated[int, Field(ge=1, le=10**6)] = 1_000  # a node's count weighs ≤ this

    # --- watching the run, on the server (docs/monitoring.md)
    log_format: LogFormat = "text"  # "json": one object a line
    log_level: LogLevel = "info"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0  # Prometheus endpoint; 0 = none
    metrics_host: str = "127.0.0.1"  # it has no password: loopback or a private network
    tracking: Literal["none", "tensorboard", "mlflow"] = "none"  # each by its own library

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim = {self.dim} must be a multiple of heads = {self.heads}")
        if self.min_replies > self.min_nodes:
            raise ValueError(
                f"min-replies = {self.min_replies} can never be met with "
                f"min-nodes = {self.min_nodes}; lower min-replies or raise min-nodes"
            )
        if self.method == "lumos" and not (
            self.use_future or self.use_paraphrase or self.contrastive_weight == 0
        ):
            raise ValueError(
                "use-future and use-paraphrase are both false: the tri-view loss has no positive; "
                "turn one on or set contrastive-weight = 0"
            )
        self._check_privacy()
        self._check_secure_aggregation()
        return self

    @property
    def has_views(self) -> bool:
        """Whether the method trains on views of a writer."""
        return self.method == "lumos"

    @property
    def keeps_counts_back(self) -> bool:
        """Whether a node tells nothing about its users but what the protocol cannot do without."""
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

    def _check_privacy(self) -> None:
        """What the proofs behind (ε, δ) rest on."""
        if self.dp in ("central", "distributed"):
            for key, found, needed in (
                ("weighting", self.weighting, "uniform"),
                ("aggregation", self.rule, "mean"),
                ("clip", self.clipping, "none"),
            ):
                if found != needed:
                    raise ValueError(
                        f"dp = {self.dp} bounds what one node adds to a plain sum: it needs "
                        f"{key} = {needed}, found {found}"
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
        if self.dp == "user" and self.method == "confedsrs":
            raise ValueError(
                "dp = user clips every user's gradient, but confedsrs contrasts users with each "
                "other; choose method = fedavg or lumos, or dp = central or distributed"
            )
        if self.max_epsilon and (self.dp == "none" or not self.dp_noise_multiplier):
            raise ValueError(
                f"max-epsilon = {self.max_epsilon:g} needs dp (found {self.dp}) and a positive "
                f"dp-noise-multiplier (found {self.dp_noise_multiplier:g})"
            )

    def _check_secure_aggregation(self) -> None:
        """What cannot be done without seeing a single delta, and what makes sums secret."""
        if not self.secure_aggregation:
            return
        for key, found, needed, why in (
            ("aggregation", self.rule, "mean", "it compares single deltas"),
            ("clip", self.clipping, "none", "it measures single deltas; secagg-clip bounds them"),
            ("delta-codec", self.delta_codec, "float32", "masked values cannot be compressed"),
        ):
            if found != needed:
                raise ValueError(
                    f"secure-aggregation = true needs {key} = {needed}, found {found}: {why}"
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


class NodeConfig(FlatConfig):
    """Facts of one node that stay on its machine (Flower's ``--node-config``)."""

    data: str  # folder with catalog.tsv and interactions.tsv
    state: str = ""  # folder for views, ledger; default: <data>/state
    name: Annotated[str, Field(pattern=f"^{NODE_NAME}$")] = "node"
    device: str = "cpu"
    threads: Positive = 1
    llm: str = ""  # overrides the run's choice
    llm_quantization: Literal["", "none", "8bit", "4bit"] = ""
    view_seconds: NonNegative = 60.0  # per round, for views that are missing after the first
    prepare_seconds: NonNegative = 0.0  # for views before round 1; 0: until none is missing
    log_format: LogFormat = "text"  # of the node's process; "json": one object a line
    log_level: LogLevel = "info"
    keep_model: bool = True  # keep the received global model in the state, for lumos recommend
    require_secure_aggregation: bool = False  # refuse to train where a delta would be readable
    secagg_min_nodes: Annotated[int, Field(ge=2)] = 3  # the smallest sum to be part of
    # Flower's simulation engine adds these two by itself:
    partition_id: Annotated[int, Field(ge=0)] = 0
    num_partitions: Positive = 1

    @property
    def state_folder(self) -> Path:
        """Where the node keeps its views, ledger, models and logs."""
        return Path(self.state) if self.state else Path(self.data) / "state"


def free_keys(flat: Mapping[str, Scalar]) -> frozenset[str]:
    """Keys of a flat configuration that may change when its run is resumed.

    With ``dp = distributed`` every node's noise is computed from ``min-replies``: a node's draw of
    a round, scaled in two ways, could be taken out of what it sent. Elsewhere it only says how many
    replies a round needs, and the number of nodes may have changed.
    """
    return FREE_KEYS if flat["dp"] == "distributed" else FREE_KEYS | {"min-replies"}


def fixed(flat: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """What makes a run this run and no other: its configuration without :func:`free_keys`."""
    free = free_keys(flat)
    return {key: value for key, value in flat.items() if key not in free}


def first_difference(saved: Mapping[str, Scalar], wanted: Mapping[str, Scalar]) -> str | None:
    """The first key that makes ``wanted`` another run than ``saved``; both have all keys."""
    changed = (key for key, value in fixed(saved).items() if wanted[key] != value)
    return next(changed, None)


def _explain(error: ValidationError, model: type[FlatConfig]) -> str:
    keys = {name: f.alias or name for name, f in model.model_fields.items()}
    lines = []
    for problem in error.errors():
        key = keys.get(str(problem["loc"][0]), str(problem["loc"][0])) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key '{key}'{_did_you_mean(key, keys.values())}")
        elif not key:
            lines.append(problem["msg"].removeprefix("Value error, "))
        elif problem["type"] == "missing":
            lines.append(f"key '{key}' is required")
        else:
            lines.append(f"key '{key}': found {problem['input']!r}, but {problem['msg'].lower()}")
    return "; ".join(lines)


def _did_you_mean(key: str, known: Any) -> str:
    import difflib

    close = difflib.get_close_matches(key, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
