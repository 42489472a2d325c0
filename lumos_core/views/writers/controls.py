"""Controls for the LLM's views: TF-IDF neighbours of titles, and items drawn at random."""

from collections.abc import Sequence
from typing import Literal

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
from lumos_core.views.writers.view_settings import ViewSettings

_VERSION = "2"
_HALF_LIFE, _FAR_HALF_LIFE = 2.0, 50.0  # the LLM writer's values, so that only the model differs
_SUBSTITUTES = 10


class TfidfViewWriter:
    """The control without a language model: similarity of titles as strings.

    future = the items most like the recent ones; paraphrase = every recent item replaced by its
    nearest neighbour; counterfactual = items from the far end.

    Args:
        titles: of items 1..N, in order.
        catalog_fingerprint: of the same catalog.
        settings: lengths, and the seed of the draw from the far end.
    """

    def __init__(
        self,
        titles: Sequence[str],
        catalog_fingerprint: str,
        settings: ViewSettings,
    ) -> None:
        self.fingerprint = control_fingerprint("tfidf", catalog_fingerprint, settings)
        self._settings = settings
        self._space = TitleSpace(tfidf_vectors(titles))
        self._table, _ = self._space.neighbours(_SUBSTITUTES)

    def write(self, histories: Sequence[Sequence[int]]) -> list[UserViews]:
        """One :class:`UserViews` per history (catalog indices, chronological, not empty)."""
        settings = self._settings
        recent = [list(history)[-settings.recent :] for history in histories]
        near = self._space.near(recent, _HALF_LIFE)
        overall = self._space.near(recent, _FAR_HALF_LIFE)
        futures = best_new(near, histories, settings.future_items)
        views = []
        for scores, history, last, future in zip(overall, histories, recent, futures, strict=True):
            far = draw_far(scores, history, len(last), stable_rng(settings.seed, history))
            counterfactual = repeat_to(far, len(last))
            views.append(UserViews(tuple(future), substitutes(last, self._table), counterfactual))
        return views


class RandomViewWriter:
    """The control without content: every item of every view is drawn uniformly.

    Args:
        items: number of items in the catalog.
        catalog_fingerprint: of the same catalog.
        settings: lengths, and the seed of all draws.
    """

    def __init__(
        self,
        items: int,
        catalog_fingerprint: str,
        settings: ViewSettings,
    ) -> None:
        self.fingerprint = control_fingerprint("random", catalog_fingerprint, settings)
        self._items, self._settings = items, settings

    def write(self, histories: Sequence[Sequence[int]]) -> list[UserViews]:
        """One :class:`UserViews` per history."""
        return [self._draw(history) for history in histories]

    def _draw(self, history: Sequence[int]) -> UserViews:
        rng = stable_rng(self._settings.seed, history)
        length = min(self._settings.recent, len(history))
        sizes = (min(self._settings.future_items, self._items), length, length)
        return UserViews(*(self._items_of(rng, size) for size in sizes))

    def _items_of(self, rng: np.random.Generator, size: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, self._items + 1, size=size).tolist())


def control_fingerprint(
    kind: Literal["tfidf", "random"], catalog: str, settings: ViewSettings
) -> str:
    """SHA-256 hex of all that views depend on except the history.

    Args:
        kind: of the writer.
        catalog: fingerprint of the catalog.
        settings: only those that the controls use are part of the fingerprint.
    """
    used = (settings.future_items, settings.recent, settings.seed)
    return writer_digest(kind, _VERSION, catalog, *used)
