"""What nodes may send, and the checks it must pass before anything uses it.

A train reply is a delta plus the sums and counts of :data:`TRAIN_METRICS` (and, when the server
asked for it, those of :data:`EVALUATION_METRICS` about the *received* model); an evaluate reply is
the latter alone. Nothing else exists on the wire, so nothing else can leak.
"""

from collections.abc import Mapping

from lumos_core import deltas
from lumos_core.config import RunConfig
from lumos_core.errors import ReplyError
from lumos_core.evaluation import CUTOFFS
from lumos_core.model import Params

Metrics = dict[str, int | float]

TRAIN_METRICS = frozenset(
    {"users", "examples", "loss", "contrastive", "contrastive-users", "views", "seconds"}
)
RANKING = ("users", *(f"{m}@{k}" for k in CUTOFFS for m in ("hr", "ndcg")), "mrr")
EVALUATION_METRICS = frozenset(f"eval-{name}" for name in RANKING)
INFO = frozenset({"name", "catalog", "shape", "users", "version"})
"""Answers to the ``describe`` query: a name, two fingerprints, a count, LUMOS's version."""

COUNTS = frozenset({"users", "examples", "contrastive-users", "views", "eval-users"})
"""Metrics that are whole numbers."""

MAX_COUNT = 10**9
"""A node that claims more users, examples or seconds than this is not telling the truth."""


def check_train(
    arrays: Params, metrics: Mapping[str, float], like: Params, config: RunConfig, evaluated: bool
) -> Params:
    """The decoded delta of a train reply.

    Args:
        arrays: the delta on the wire.
        metrics: sums and counts.
        like: the global parameters.
        evaluated: whether the received model was to be evaluated as well.

    Raises:
        ReplyError: anything is missing, unknown, of the wrong type, not finite or out of range.
    """
    _check_metrics(metrics, TRAIN_METRICS | (EVALUATION_METRICS if evaluated else frozenset()))
    if metrics["users"] < 1:
        raise ReplyError("metric 'users' is 0: a delta of nobody")
    if evaluated:
        _check_ranking(metrics)
    delta = deltas.decode(arrays, config.delta_codec, like, config.top_rows_share)
    deltas.check_norm(delta, config.max_delta_norm)
    return delta


def check_evaluation(metrics: Mapping[str, float]) -> None:
    """Raises ReplyError unless ``metrics`` are exactly the sums of an evaluation."""
    _check_metrics(metrics, EVALUATION_METRICS)
    _check_ranking(metrics)


def ranking_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """The evaluation sums in a checked reply, without their prefix."""
    return {name: float(metrics[f"eval-{name}"]) for name in RANKING}


def _check_metrics(metrics: Mapping[str, float], expected: frozenset[str]) -> None:
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


def _check_ranking(metrics: Mapping[str, float]) -> None:
    """No metric can exceed 1 per user."""
    users = metrics["eval-users"]
    for name in RANKING[1:]:
        if metrics[f"eval-{name}"] > users * (1 + 1e-6):
            raise ReplyError(f"metric 'eval-{name}' exceeds its number of users ({users})")
