"""The contents that replies may have, and the checks that they must pass before they are used.

A train reply is a delta plus the sums and counts of :data:`TRAIN_METRICS` and, if the server asked
for them, those of :func:`evaluation_names` about the *received* model. An evaluate reply holds only
the latter. Nothing else exists on the wire, so nothing else can leak.
"""

from collections.abc import Mapping, Sequence

from lumos_core.config import RunConfig
from lumos_core.errors import ReplyError
from lumos_core.learning.metrics import CUTOFFS
from lumos_core.learning.parameters import ITEM_TABLE, Params
from lumos_core.wire import deltas
from lumos_core.wire.codecs import codec
from lumos_core.wire.messages import Metrics, Reply, Rows

TRAIN_METRICS = frozenset(
    {"users", "examples", "loss", "contrastive", "contrastive-users", "views-complete", "seconds"}
)
RANKING = ("users", *(f"{m}@{k}" for k in CUTOFFS for m in ("hr", "ndcg")), "mrr")
"""Sums of an evaluation, see :func:`lumos_core.learning.metrics.ranking_sums`."""
INFO = frozenset({"name", "catalog", "shape", "users", "version", "protocol", "flower", "python"})
"""Answers to the ``describe`` query: a name, two fingerprints, a count, and versions
(:mod:`lumos_core.wire.versions`)."""

PREPARATION_METRICS = frozenset({"complete", "done", "percent", "seconds-left"})
"""Answers to ``prepare``: whether every user has views, whether the node has written all that it
will write before the first round, its rough progress in percent (0 where the node does not reveal
counts), and the seconds that are left."""

FETCH_METRICS = frozenset({"wanted", "piece"})
"""Answers to ``artefact``: whether the node wants a piece of the server's catalog artefact, and the
piece's number. A node that wants none says no more than that: it may have the file, another model,
or an owner who does not allow it."""


def evaluation_names(weights: Sequence[float]) -> frozenset[str]:
    """Names of the metrics of an evaluation.

    Args:
        weights: those of the titles' nearness with which items are ranked.

    >>> sorted(evaluation_names([0.0]))[:3]
    ['eval-hr@10', 'eval-hr@20', 'eval-hr@5']
    >>> sorted(evaluation_names([0.2]))[:2]
    ['eval-hr@10-titles-0.2', 'eval-hr@20-titles-0.2']
    """
    return frozenset(_wire_name(name, weight) for name in RANKING for weight in weights)


def evaluation_metrics(sums: Mapping[float, Mapping[str, float]]) -> Metrics:
    """The metrics of a reply from the sums of an evaluation, by weight of the titles' nearness."""
    return {
        _wire_name(name, weight): value
        for weight, found in sums.items()
        for name, value in found.items()
    }


def _wire_name(name: str, weight: float) -> str:
    if name == "users" or weight == 0:
        return f"eval-{name}"
    return f"eval-{name}-titles-{weight:g}"


EVALUATION_METRICS = evaluation_names((0.0,))
"""Metrics of rankings without the nearness of titles."""

COUNTS = frozenset({"users", "examples", "contrastive-users", "eval-users", "percent", "piece"})
"""Metrics that are whole numbers."""

FLAGS = frozenset({"views-complete", "complete", "done", "wanted"})
"""Metrics that are 0 or 1; a sum of replies counts the ones."""

MAX_COUNT = 10**9
"""A node that claims more users, examples or seconds than this reports false values."""


def check_train(
    arrays: Params,
    metrics: Mapping[str, float],
    like: Params,
    config: RunConfig,
    evaluated: bool,
    nodes: int = 1,
    rows: Rows | None = None,
) -> Params:
    """The decoded delta of a train reply.

    Args:
        arrays: the delta on the wire.
        metrics: sums and counts.
        like: the global parameters.
        evaluated: whether the instruction asked to evaluate the received model as well.
        nodes: number of nodes whose replies this is the sum of.
        rows: of the item table, the rows that the delta has; None: all.

    Raises:
        ReplyError: anything is missing, unknown, of the wrong type, not finite or out of range.
    """
    _check_metrics(metrics, train_names(config, evaluated), nodes)
    if metrics["users"] < 1:
        raise ReplyError("metric 'users' is 0: a delta of nobody")
    if evaluated:
        _check_ranking(metrics, config.title_weights)
    if rows is not None:
        like = {**like, ITEM_TABLE: like[ITEM_TABLE][rows]}
    delta = codec(config.delta_codec).decode(arrays, like, config.top_rows_share)
    deltas.check_norm(delta, config.max_delta_norm)
    return delta


def train_names(config: RunConfig, evaluated: bool) -> frozenset[str]:
    """Names of the metrics of a train reply.

    Args:
        config: of the run.
        evaluated: whether it evaluates the received model on the validation targets as well.
    """
    return TRAIN_METRICS | (evaluation_names(config.title_weights) if evaluated else frozenset())


def check_evaluation(metrics: Mapping[str, float], weights: Sequence[float] = (0.0,)) -> None:
    """Check the metrics of an evaluate reply.

    Args:
        metrics: of the reply.
        weights: the weights of the titles' nearness that the node was to use.

    Raises:
        ReplyError: they are not exactly the sums of such an evaluation.
    """
    _check_metrics(metrics, evaluation_names(weights))
    _check_ranking(metrics, weights)


def preparation(complete: bool, done: bool, percent: int = 0, seconds_left: float = 0.0) -> Metrics:
    """The metrics of an answer to ``prepare``."""
    return {
        "complete": int(complete),
        "done": int(done),
        "percent": percent,
        "seconds-left": seconds_left,
    }


def check_preparation(metrics: Mapping[str, float]) -> None:
    """Raises ReplyError unless ``metrics`` are exactly an answer to ``prepare``."""
    _check_metrics(metrics, PREPARATION_METRICS)
    if metrics["percent"] > 100:
        raise ReplyError(f"metric 'percent' is {metrics['percent']}, expected 0 … 100")


def check_answers(reply: Reply, kind: str) -> None:
    """Raises ReplyError unless a reply is an answer to that kind of instruction, and no error."""
    if reply.kind != kind:
        raise ReplyError(f"answers {reply.kind[:20]!r} to {kind!r}")
    if reply.error is not None:
        raise ReplyError(f"error {reply.error[:80]!r}")


def check_fetch(metrics: Mapping[str, float], pieces: int) -> None:
    """Raises ReplyError unless ``metrics`` are exactly an answer to ``artefact``, and the wanted
    piece is one of so many."""
    _check_metrics(metrics, FETCH_METRICS)
    if metrics["wanted"] and metrics["piece"] >= pieces:
        raise ReplyError(f"metric 'piece' is {metrics['piece']}, expected one of {pieces}")


def rankings_of(
    metrics: Mapping[str, float], weights: Sequence[float]
) -> dict[float, dict[str, float]]:
    """The evaluation sums in a checked reply, by weight of the titles' nearness."""
    return {w: {name: float(metrics[_wire_name(name, w)]) for name in RANKING} for w in weights}


def _check_metrics(metrics: Mapping[str, float], expected: frozenset[str], nodes: int = 1) -> None:
    for name in sorted(expected - metrics.keys()):
        raise ReplyError(f"metric '{name}' is missing")
    for unknown in sorted(str(name) for name in metrics.keys() - expected):
        raise ReplyError(f"unknown metric {unknown[:80]!r}")
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ReplyError(f"metric '{name}' is a {type(value).__name__}, expected a number")
        if not 0 <= value <= MAX_COUNT:  # false for NaN, too
            shown = f"{value:.4g}" if abs(value) < 1e300 else "not finite"
            raise ReplyError(f"metric '{name}' is {shown}, expected 0 … {MAX_COUNT:.0e}")
        if name in COUNTS and value != int(value):
            raise ReplyError(f"metric '{name}' is {value:.4g}, expected a whole number")
        if name in FLAGS and value not in range(nodes + 1):
            raise ReplyError(f"metric '{name}' is {value:.4g}, expected 0 … {nodes}")


def _check_ranking(metrics: Mapping[str, float], weights: Sequence[float]) -> None:
    """Raises ReplyError if a metric exceeds 1 per user, which no ranking metric can."""
    users = metrics["eval-users"]
    for name in sorted(evaluation_names(weights) - {"eval-users"}):
        if metrics[name] > users * (1 + 1e-6):
            raise ReplyError(f"metric '{name}' exceeds its number of users ({users})")
