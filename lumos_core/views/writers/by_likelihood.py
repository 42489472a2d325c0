"""The writer behind ``views = "llm"``: the language model chooses among catalog items.

A small model that writes freely copies the history and invents products. But it gives useful
answers when asked which of some catalog items are likely. So every view is such a choice:

- future: of the items nearest in meaning, those that the history makes most likely;
- paraphrase: every item replaced by the one nearest to it in meaning (a table of the catalog);
- counterfactual: items far in meaning.

With ``llm-judges = all`` the model also judges which items are alike, and which of the far items
the history makes least likely. That costs three times the tokens and changes little.
"""

import math
from collections.abc import Sequence

import numpy as np

from lumos_core.data.catalog import Catalog
from lumos_core.views.llm.likelihood import log_likelihoods
from lumos_core.views.llm.load import LocalLLM
from lumos_core.views.llm.prompts import list_head
from lumos_core.views.titles import judgements
from lumos_core.views.titles.judgements import CatalogTables, ListPrompt
from lumos_core.views.titles.space import (
    Floats,
    best_new,
    draw_far,
    repeat_to,
    stable_rng,
    substitutes,
)
from lumos_core.views.view import UserViews, writer_digest
from lumos_core.views.writers.view_settings import ViewSettings

_VERSION = "4"
HALF_LIFE = 2.0  # of an item's weight, in items: a future depends on the most recent items
FAR_HALF_LIFE = 50.0  # long: a counterfactual contradicts the whole history
CHOICE = 1.6  # candidates for each item of a future, at least
_SPARE_FAR = 3  # far items that the model may reject


class LLMViewWriter:
    """Writes the three views with a loaded model.

    Args:
        llm: the model.
        catalog: the public catalog.
        catalog_tables: of the same model, catalog and noun.
        settings: see :class:`ViewSettings`.
    """

    def __init__(
        self, llm: LocalLLM, catalog: Catalog, catalog_tables: CatalogTables, settings: ViewSettings
    ) -> None:
        basis = catalog_tables.basis
        self.fingerprint = writer_fingerprint(llm.fingerprint, catalog, settings, basis)
        self._llm, self._tables, self._settings = llm, catalog_tables, settings
        self._prompt = ListPrompt(llm, list_head(settings.noun), catalog_tables.titles)

    def write(self, histories: Sequence[Sequence[int]]) -> list[UserViews]:
        """One :class:`UserViews` per history (catalog indices, chronological, not empty)."""
        settings = self._settings
        recent = [list(history)[-settings.recent :] for history in histories]
        read = [items[-settings.prompt_items :] for items in recent]
        near = self._tables.space.near(read, HALF_LIFE)
        count = max(settings.candidates, math.ceil(CHOICE * settings.future_items))
        pools = best_new(near, histories, count)
        overall = self._tables.space.near(recent, FAR_HALF_LIFE)
        spare = _SPARE_FAR if settings.judges_all else 0
        far = [
            draw_far(row, history, len(items) + spare, stable_rng(settings.seed, history))
            for row, history, items in zip(overall, histories, recent, strict=True)
        ]
        judged = [
            pool + (other if settings.judges_all else [])
            for pool, other in zip(pools, far, strict=True)
        ]
        surprises = self._pmi(read, judged)
        return [
            UserViews(
                choose_future(pools[u], near[u], pmi[: len(pools[u])], settings.future_items),
                substitutes(recent[u], self._tables.substitutes),
                choose_counterfactual(far[u], pmi[len(pools[u]) :], len(recent[u])),
            )
            for u, pmi in enumerate(surprises)
        ]

    def _pmi(self, histories: list[list[int]], candidates: list[list[int]]) -> list[Floats]:
        """How much more likely its history makes each candidate."""
        requests = [
            self._prompt.request(history, items)
            for history, items in zip(histories, candidates, strict=True)
        ]
        scores = log_likelihoods(self._llm, requests)
        prior = self._tables.prior
        return [
            score - judgements.PRIOR_WEIGHT * prior[np.asarray(items, dtype=np.int64) - 1]
            for score, items in zip(scores, candidates, strict=True)
        ]


def choose_future(pool: list[int], near: Floats, pmi: Floats, count: int) -> tuple[int, ...]:
    """The best items of a pool, by nearness in meaning and the model's judgement.

    Args:
        pool: catalog indices.
        near: [N] nearness of every item of the catalog to the history.
        pmi: [pool] judgement of the pool's items.
    """
    if not pool:
        return ()
    scores = judgements.judged(near[np.asarray(pool) - 1], pmi)
    return tuple(pool[i] for i in np.argsort(-scores, kind="stable")[:count])


def choose_counterfactual(far: list[int], pmi: Floats, length: int) -> tuple[int, ...]:
    """The least likely of some far items, the least likely of all last, where it counts; in the
    given order if the model was not asked (``pmi`` is empty)."""
    if not len(pmi):
        return repeat_to(far[:length], length)
    kept = [far[i] for i in np.argsort(pmi, kind="stable")[:length]]
    return repeat_to(kept[::-1], length)


def writer_fingerprint(
    model: str, catalog: Catalog, settings: ViewSettings, basis: str = ""
) -> str:
    """All that views depend on except the history.

    Args:
        model: fingerprint of the language model.
        catalog: the public catalog.
        settings: how views are written.
        basis: of the catalog artefact, if one is used. It stays when the catalog grows, and with it
            the views.
    """
    parts = (_VERSION, judgements.versions(), model, basis or catalog.fingerprint, *settings)
    return writer_digest("llm", *parts, by_content=bool(basis))
