"""Recommendations of a trained model: items that are not in a user's history, best first, with
reasons.

The ranking is that of :mod:`lumos_core.learning.evaluation`: scores of the whole catalog after the
last item of a history, with the nearness of titles added as the model's card says, without the
items of the history. A *reason* is an item of the history whose
embedding is among the nearest (by cosine) to the recommended item's: the model places similar items
close to each other. A reason explains a recommendation by similarity; it does not show how the
model computed it. An item with cosine 0 or below is not similar, and is never a reason.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.errors import DataError
from lumos_core.learning.batching import pad
from lumos_core.learning.evaluation import encoder_scores
from lumos_core.learning.model import SASRec
from lumos_core.learning.title_nearness import TitleNearness, fused
from lumos_core.recommend.model_files import load_model
from lumos_core.safe_files import replacing

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Ranked", "Reason", "Recommendation", "Recommender", "export_parquet", "load_model"]

REASONS = 2
SCORES_AT_A_TIME = 2**24
"""float32 scores in memory at a time (64 MiB): this bounds how many users a batch has."""
USERS_AT_A_TIME = 256

Indices = NDArray[np.int32]
Floats = NDArray[np.float32]
History = Sequence[int] | NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Ranked:
    """The best items of B users. If fewer than K items can be recommended, a row ends with 0s.

    Attributes:
        items: int32 [B, K], 1..N, best first; 0 means no item.
        scores: float32 [B, K]; comparable within a row; -inf where item is 0.
        reasons: int32 [B, K, R], distinct items of the history with a positive cosine, nearest
            first; 0 means no item.
        similarities: float32 [B, K, R], cosine to the recommended item; 0 where reason is 0.
    """

    items: Indices
    scores: Floats
    reasons: Indices
    similarities: Floats


@dataclass(frozen=True)
class Reason:
    """An item of the history that is similar to a recommended one."""

    item_id: str
    title: str
    similarity: float


@dataclass(frozen=True)
class Recommendation:
    """One item for one user."""

    rank: int  # 1 is best
    item_id: str
    title: str
    score: float
    reasons: tuple[Reason, ...]


class Recommender:
    """Ranks a catalog for histories.

    Args:
        model: from :func:`load_model`.
        catalog: the catalog that the model was loaded for.
        top: items per user, K; at most the catalog's size.
        reasons: number of reasons per recommended item, R.
        include_seen: rank items of the history as well.

    >>> from lumos_core import Catalog, Recommender, RunConfig
    >>> from lumos_core.learning.model import new_model
    >>> catalog = Catalog(("A1", "B7", "C3"), ("lamp", "paper chain", "tea pot"))
    >>> model = new_model(RunConfig(dim=8), len(catalog))  # untrained; use load_model in practice
    >>> best = Recommender(model, catalog, top=2).for_user([catalog.index("B7")])
    >>> [found.rank for found in best], {found.item_id for found in best} == {"A1", "C3"}
    ([1, 2], True)
    """

    def __init__(
        self,
        model: SASRec,
        catalog: Catalog,
        *,
        top: int = 10,
        reasons: int = REASONS,
        include_seen: bool = False,
    ) -> None:
        if top < 1 or reasons < 0:
            raise ValueError(f"top = {top}, reasons = {reasons}")
        self.model, self.catalog = model.eval(), catalog
        self.top, self.reasons = min(top, len(catalog)), reasons
        self.include_seen = include_seen
        # an encoder of a plug-in has no such attribute unless it was loaded from a file
        self._title_weight = float(getattr(model, "title_weight", 0.0))
        self._titles = TitleNearness.of(catalog) if self._title_weight else None
        with torch.inference_mode():  # float [N + 1, D] of length 1; a zero vector stays zero
            self._directions = F.normalize(model.items.weight, dim=-1).cpu()

    def for_user(self, history: History, top: int | None = None) -> list[Recommendation]:
        """At most K recommendations with titles.

        Args:
            history: items 1..N in the order of time, at least one.
            top: K, if it is another one for this user.

        Raises:
            DataError: the history is empty.
        """
        ranked = self.rank([history], top)
        return [
            Recommendation(
                rank,
                self.catalog.item_id(item),
                self.catalog.title(item),
                float(ranked.scores[0, rank - 1]),
                tuple(
                    Reason(self.catalog.item_id(i), self.catalog.title(i), float(s))
                    for i, s in zip(
                        ranked.reasons[0, rank - 1].tolist(),
                        ranked.similarities[0, rank - 1],
                        strict=True,
                    )
                    if i
                ),
            )
            for rank, item in enumerate(ranked.items[0].tolist(), start=1)
            if item
        ]

    def rank(self, histories: Sequence[History], top: int | None = None) -> Ranked:
        """Rank for a few users at once; see :meth:`batches` for many.

        Args:
            histories: items 1..N in the order of time.
            top: K, if it is another one for these users; at least 1.

        Raises:
            DataError: a history is empty or holds an index outside the catalog.
        """
        arrays = [np.asarray(h, dtype=np.int64) for h in histories]
        self._check(arrays)
        with torch.inference_mode():
            scores = encoder_scores(self.model, arrays)
            if self._titles is not None:
                scores = fused(scores, self._titles.near(arrays), self._title_weight)
            scores = torch.where(scores.isnan(), -torch.inf, scores)
            if not self.include_seen:
                rows = np.repeat(np.arange(len(arrays)), [len(a) for a in arrays])
                scores[
                    torch.from_numpy(rows), torch.from_numpy(np.concatenate(arrays) - 1)
                ] = -torch.inf
            wanted = self.top if top is None else min(top, len(self.catalog))
            best, columns = top_columns(scores, wanted)
            items = torch.where(best > -torch.inf, columns + 1, 0)
            near, cosines = self._reasons(arrays, items)
        return Ranked(
            items.numpy().astype(np.int32),
            best.numpy(),
            near.numpy().astype(np.int32),
            cosines.numpy(),
        )

    def batches(self, users: Sequences) -> Iterator[tuple[range, Ranked]]:
        """Rank for many users in their order, one batch at a time, so that scores of all users ×
        items are never in memory together.

        Yields:
            The positions of the batch's users, and their ranking.
        """
        size = max(1, min(USERS_AT_A_TIME, SCORES_AT_A_TIME // len(self.catalog)))
        for start in range(0, len(users), size):
            positions = range(start, min(start + size, len(users)))
            yield positions, self.rank([users[u] for u in positions])

    def _check(self, histories: Sequence[NDArray[np.int64]]) -> None:
        for history in histories:
            if not len(history):
                raise DataError(
                    "the history is empty; a recommendation needs at least one interaction"
                )
            if history.min() < 1 or history.max() > len(self.catalog):
                raise DataError(f"a history holds an item outside 1..{len(self.catalog)}")

    def _reasons(
        self, histories: Sequence[NDArray[np.int64]], items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest items among those of each history that the model has read; of equally near
        ones the more recent comes first: int64 and float32 [B, K, R]."""
        read, _ = pad([_latest(h, self.model.shape.max_len) for h in histories], 2**62)
        seen = torch.from_numpy(read)  # [B, T], most recent first
        theirs, ours = self._directions[seen], self._directions[items]
        cosines = ours @ theirs.transpose(1, 2)  # [B, K, T]
        cosines = torch.where((seen == 0)[:, None] | (items == 0)[..., None], -torch.inf, cosines)
        wanted = min(self.reasons, seen.shape[1])
        nearest, places = top_columns(cosines.flatten(0, 1), wanted)
        nearest, places = (t.view(*items.shape, wanted) for t in (nearest, places))
        found = nearest > 0
        near = seen[:, None].expand(-1, items.shape[1], -1).gather(2, places)
        missing = (0, self.reasons - wanted)
        return (
            F.pad(torch.where(found, near, 0), missing),
            F.pad(torch.where(found, nearest, 0.0), missing),
        )


def top_columns(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest values of each row, largest first; of equal ones the lower column comes first.

    Args:
        values: float [B, N] without NaN.
        k: at most N.

    Returns:
        float [B, k] and int64 [B, k] columns.
    """
    best, columns = values.topk(k, dim=1)  # which of equal values it takes is not defined
    if k:
        last = best[:, -1:]
        ambiguous = (values == last).sum(1) > (best == last).sum(1)
        if ambiguous.any():
            ordered, order = values[ambiguous].sort(dim=1, descending=True, stable=True)
            best[ambiguous], columns[ambiguous] = ordered[:, :k], order[:, :k]
    columns, by_column = columns.sort(dim=1)
    best, by_value = best.gather(1, by_column).sort(dim=1, descending=True, stable=True)
    return best, columns.gather(1, by_value)


def _latest(history: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Distinct items among the last n, most recent first."""
    return np.fromiter(dict.fromkeys(history[: -n - 1 : -1].tolist()), dtype=np.int64)


# ---------------------------------------------------------------- batch export
def export_parquet(
    recommender: Recommender,
    users: Sequences,
    path: Path,
    on_batch: Callable[[int], None] = lambda users: None,
) -> None:
    """Write recommendations for all users to one Parquet file, batch by batch and atomically. Only
    its owner may read it, because it reveals users' interests.

    Columns: ``user_id`` String, ``rank`` UInt32 from 1, ``item_id`` String, ``title`` String,
    ``score`` Float32, ``reasons`` List(String) of item ids.

    Args:
        recommender: ranks the catalog.
        users: the users to recommend to.
        path: file to write; an existing file is replaced.
        on_batch: called with the number of users of every finished batch.

    Raises:
        DataError: a history is empty.
    """
    from polars.io.plugins import register_io_source

    def frames(*_: object) -> Iterator["pl.DataFrame"]:  # Polars always asks for all columns, rows
        for positions, ranked in recommender.batches(users):
            yield _frame(recommender.catalog, users, positions, ranked)
            on_batch(len(positions))

    with replacing(path, mode=0o600) as temporary:
        register_io_source(frames, schema=_schema()).sink_parquet(temporary)


def _frame(catalog: Catalog, users: Sequences, of: range, ranked: Ranked) -> "pl.DataFrame":
    """One row per recommendation."""
    import polars as pl

    row, column = np.nonzero(ranked.items)
    items = ranked.items[row, column]
    reasons = [[catalog.item_id(i) for i in r if i] for r in ranked.reasons[row, column].tolist()]
    return pl.DataFrame(
        {
            "user_id": [users.user_ids[of.start + r] for r in row.tolist()],
            "rank": (column + 1).astype(np.uint32),
            "item_id": [catalog.item_id(i) for i in items.tolist()],
            "title": [catalog.title(i) for i in items.tolist()],
            "score": ranked.scores[row, column],
            "reasons": reasons,
        },
        schema=_schema(),
    )


def _schema() -> "pl.Schema":
    import polars as pl

    text, texts = pl.String(), pl.List(pl.String)
    columns = (text, pl.UInt32(), text, text, pl.Float32(), texts)
    names = ("user_id", "rank", "item_id", "title", "score", "reasons")
    return pl.Schema(zip(names, columns, strict=True))
