"""What the LLM has to beat: views from TF-IDF neighbours of titles, and views drawn at random."""

from collections.abc import Sequence

import numpy as np

from lumos_core.views.titles.space import (
    TitleSpace,
    best_new,
    draw_far,
    repeat_to,
    stable_rng,
    substitutes,
)
from lumos_core.views.titles.tfidf import tfidf_vectors
from lumos_core.views.view import UserViews, writer_digest

_VERSION = "2"
_HALF_LIFE, _FAR_HALF_LIFE = 2.0, 50.0  # as the LLM writer's: the comparison is about the model
_SUBSTITUTES = 10


class TfidfViewWriter:
    """The control without a language model: likeness of titles as strings.

    future = the items most like the recent ones; paraphrase = every recent item replaced by its
    nearest neighbour; counterfactual = items from the far end.

    Args:
        titles: of items 1..N, in order.
        catalog_fingerprint: of the same catalog.
        future_items: new items in a future view.
        recent: items of the history that are read and rewritten.
        seed: of the draw from the far end.
    """

    def __init__(
        self,
        titles: Sequence[str],
        catalog_fingerprint: str,
        *,
        future_items: int = 5,
        recent: int = 8,
        seed: int = 0,
    ) -> None:
        self.fingerprint = self.fingerprint_of(catalog_fingerprint, future_items, recent, seed)
        self._future_items, self._recent, self._seed = future_items, recent, seed
        self._space = TitleSpace(tfidf_vectors(titles))
        self._table, _ = self._space.neighbours(_SUBSTITUTES)

    @staticmethod
    def fingerprint_of(catalog: str, future_items: int, recent: int, seed: int) -> str:
        return writer_digest("tfidf", _VERSION, catalog, future_items, recent, seed)

    def write(self, histories: Sequence[Sequence[int]]) -> list[UserViews]:
        """One :class:`UserViews` per history (catalog indices, chronological, not empty)."""
        recent = [list(history)[-self._recent :] for history in histories]
        near = self._space.near(recent, _HALF_LIFE)
        overall = self._space.near(recent, _FAR_HALF_LIFE)
        futures = best_new(near, histories, self._future_items)
        views = []
        for scores, history, last, future in zip(overall, histories, recent, futures, strict=True):
            far = draw_far(scores, history, len(last), stable_rng(self._seed, history))
            counterfactual = repeat_to(far, len(last))
            views.append(UserViews(tuple(future), substitutes(last, self._table), counterfactual))
        return views


class RandomViewWriter:
    """The control without content: every item of every view is drawn uniformly."""

    def __init__(
        self,
        items: int,
        catalog_fingerprint: str,
        *,
        future_items: int = 5,
        recent: int = 8,
        seed: int = 0,
    ) -> None:
        self.fingerprint = self.fingerprint_of(catalog_fingerprint, future_items, recent, seed)
        self._items, self._seed = items, seed
        self._future_items, self._recent = future_items, recent

    @staticmethod
    def fingerprint_of(catalog: str, future_items: int, recent: int, seed: int) -> str:
        return writer_digest("random", _VERSION, catalog, future_items, recent, seed)

    def write(self, histories: Sequence[Sequence[int]]) -> list[UserViews]:
        """One :class:`UserViews` per history."""
        return [self._draw(history) for history in histories]

    def _draw(self, history: Sequence[int]) -> UserViews:
        rng = stable_rng(self._seed, history)
        length = min(self._recent, len(history))
        sizes = (min(self._future_items, self._items), length, length)
        return UserViews(*(self._items_of(rng, size) for size in sizes))

    def _items_of(self, rng: np.random.Generator, size: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, self._items + 1, size=size).tolist())
