"""Views that the language model writes itself, title by title (``llm-mode = trie`` or ``free``).

For each view of each user there is a :class:`Wish`: which view the model is asked for, and a pool
of acceptable items for every position of the list. A future may hold any new item; each item of a
paraphrase is near the item it replaces; a counterfactual holds items far from the whole history. In
the trie the model cannot leave these pools. What it writes freely is matched to catalog items
(`grounding`). Positions that the model leaves empty are filled with the nearest (or farthest) items
by its own title embeddings. So views are complete and in the catalog.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lumos_core.data.catalog import Catalog
from lumos_core.views.llm import prompts
from lumos_core.views.llm.decoding import stop_tokens, write_freely, write_titles
from lumos_core.views.llm.load import LocalLLM
from lumos_core.views.llm.title_trie import TitleTrie, Walk
from lumos_core.views.titles import judgements
from lumos_core.views.titles.resumable import Work
from lumos_core.views.titles.space import (
    Floats,
    TitleSpace,
    best_new,
    draw_far,
    repeat_to,
    stable_rng,
)
from lumos_core.views.view import UserViews, writer_digest
from lumos_core.views.writers.by_likelihood import FAR_HALF_LIFE, HALF_LIFE
from lumos_core.views.writers.grounding import MIN_SIMILARITY, Grounder, parse_lines
from lumos_core.views.writers.view_settings import ViewSettings

WrittenMode = Literal["trie", "free"]

_VERSION = "1"
_TITLE_TOKENS = 24  # of a title, in prompts and in the trie
_NEIGHBOURS = 16  # items from which the substitute of one is chosen
_FAR_TIMES = 4  # far items to choose from, per item of a counterfactual
_FAR_SHARE = 0.3  # of the catalog: where a freely written counterfactual has to lie


class Wish(NamedTuple):
    """A list of titles to be written."""

    view: str
    pools: list[list[int] | None]
    """For each position the acceptable items, best first; None for all items."""
    fill: list[list[int]]
    """For each position the items to take if the model names none, best first."""


class WrittenViewWriter:
    """Writes the three views with a loaded model.

    Args:
        llm: the model.
        catalog: the public catalog.
        space: title vectors of the same model and catalog.
        settings: noun, lengths, seed.
        mode: "trie" or "free".
        chat: ask questions in the model's chat template instead of letting it continue a text.
        basis: of the catalog artefact, if the space is from one.
    """

    def __init__(
        self,
        llm: LocalLLM,
        catalog: Catalog,
        space: TitleSpace,
        settings: ViewSettings,
        mode: WrittenMode,
        chat: bool = False,
        basis: str = "",
    ) -> None:
        self.fingerprint = written_fingerprint(mode, llm.fingerprint, catalog, settings, basis)
        self._llm, self._space, self._settings = llm, space, settings
        self._mode, self._chat = mode, chat
        titles = [llm.encode(prompts.title_piece(t))[:_TITLE_TOKENS] for t in catalog.titles]
        self._titles, self._bullet = titles, llm.encode(prompts.BULLET)
        self._write: Callable[[list[list[int]], list[Wish]], list[list[int | None]]]
        if mode == "trie":
            self._trie, self._write = TitleTrie(titles), self._in_trie
        else:
            self._grounder, self._write = Grounder(catalog.titles), self._freely

    def write(self, histories: Sequence[Sequence[int]]) -> list[UserViews]:
        """One :class:`UserViews` per history (catalog indices, chronological, not empty)."""
        owners = [list(history) for history in histories for _ in range(3)]
        wishes = [wish for three in self._wishes(histories) for wish in three]
        lists = [
            complete(items, wish.fill, history)
            for items, wish, history in zip(
                self._write(owners, wishes), wishes, owners, strict=True
            )
        ]
        return [
            UserViews(
                tuple(lists[u]),
                repeat_to(lists[u + 1] or history, len(wishes[u + 1].pools)),
                # reversed: what the model names first goes last, where it counts
                repeat_to(lists[u + 2] or history, len(wishes[u + 2].pools))[::-1],
            )
            for u, history in zip(range(0, len(owners), 3), owners[::3], strict=True)
        ]

    def _wishes(self, histories: Sequence[Sequence[int]]) -> list[tuple[Wish, Wish, Wish]]:
        """The future, the paraphrase, the counterfactual of each history."""
        settings = self._settings
        recent = [list(history)[-settings.recent :] for history in histories]
        near = self._space.near([items[-settings.prompt_items :] for items in recent], HALF_LIFE)
        overall = self._space.near(recent, FAR_HALF_LIFE)
        likely = best_new(near, histories, settings.future_items)
        wishes = []
        for u, history in enumerate(histories):
            count = len(recent[u])
            future = [likely[u]] * min(settings.future_items, len(likely[u]))
            alike = best_new(
                self._space.near([[item] for item in recent[u]], 1.0),
                [history] * count,
                _NEIGHBOURS + count,
            )
            rng = stable_rng(settings.seed, history)
            far = draw_far(overall[u], history, _FAR_TIMES * count, rng)
            wishes.append(
                (
                    Wish(prompts.FUTURE, [None] * len(future), future),
                    Wish(prompts.PARAPHRASE, [*alike], alike),
                    Wish(prompts.COUNTERFACTUAL, [self._far_pool(overall[u], far)] * count,
                         [far] * count),
                )
            )  # fmt: skip
        return wishes

    def _far_pool(self, scores: Floats, drawn: list[int]) -> list[int]:
        """Items that a counterfactual may hold: the drawn ones, or all far ones if it is written
        freely."""
        if self._mode == "trie":
            return drawn
        order = np.argsort(scores, kind="stable") + 1
        return [int(i) for i in order[: max(len(drawn), int(_FAR_SHARE * len(order)))]]

    def _in_trie(self, histories: list[list[int]], wishes: list[Wish]) -> list[list[int | None]]:
        stop = stop_tokens(self._llm)[0]
        walks = [
            Walk(self._trie, wish.pools, history, self._bullet, stop)
            for history, wish in zip(histories, wishes, strict=True)
        ]
        longest = max(len(wish.pools) for wish in wishes)
        steps = longest * (self._trie.depth + len(self._bullet)) + 1
        write_titles(self._llm, self._prompts(histories, wishes), walks, steps)
        return [list(walk.chosen) for walk in walks]

    def _freely(self, histories: list[list[int]], wishes: list[Wish]) -> list[list[int | None]]:
        longest = max(len(wish.pools) for wish in wishes)
        steps = longest * (_TITLE_TOKENS + len(self._bullet))
        texts = write_freely(self._llm, self._prompts(histories, wishes), steps)
        found = []
        for text, history, wish in zip(texts, histories, wishes, strict=True):
            lines = parse_lines(text)[: len(wish.pools)]
            allowed = wish.pools[0] if wish.view == prompts.COUNTERFACTUAL else None
            found.append(self._grounder.ground(lines, history, allowed))
        return found

    def _prompts(self, histories: list[list[int]], wishes: list[Wish]) -> list[list[int]]:
        return [
            self._prompt(history[-self._settings.recent :], wish)
            for history, wish in zip(histories, wishes, strict=True)
        ]

    def _prompt(self, items: list[int], wish: Wish) -> list[int]:
        """Token ids that end with a bullet, behind which the model writes the first title."""
        noun, titles = self._settings.noun, [self._titles[item - 1] for item in items]
        if not self._chat:
            history = [token for title in titles for token in [*self._bullet, *title]]
            head = self._llm.encode(prompts.list_head(noun))
            more = prompts.CONTINUATIONS[wish.view]
            return head + history + (self._llm.encode(more) if more else []) + self._bullet
        texts = [str(self._llm.tokenizer.decode(title)) for title in titles]
        question = prompts.chat_question(noun, texts, wish.view, len(wish.pools))
        return self._llm.encode_chat(question) + self._llm.encode("-")


def complete(
    items: Sequence[int | None], fill: Sequence[Sequence[int]], taken: Sequence[int]
) -> list[int]:
    """A list without gaps.

    Args:
        items: catalog indices, None where the model named no item; may be shorter than ``fill``.
        fill: for each position the items to fill it with, best first.
        taken: items that must not be filled in.

    Returns:
        at most one item per position; a position for which no item is left is left out.
    """
    used = {*taken, *(item for item in items if item is not None)}
    full = []
    for position, options in enumerate(fill):
        item = items[position] if position < len(items) else None
        if item is None:
            item = next((option for option in options if option not in used), None)
        if item is not None:
            used.add(item)
            full.append(item)
    return full


def written_fingerprint(
    mode: WrittenMode, model: str, catalog: Catalog, settings: ViewSettings, basis: str = ""
) -> str:
    """All that views depend on except the history; see
    :func:`~lumos_core.views.writers.by_likelihood.writer_fingerprint`."""
    numbers = (_TITLE_TOKENS, _NEIGHBOURS, _FAR_TIMES, _FAR_SHARE, MIN_SIMILARITY)
    versions = (_VERSION, prompts.DECODING_VERSION, prompts.VERSION, judgements.space_version())
    parts = (*versions, *numbers, model, basis or catalog.fingerprint, *settings)
    return writer_digest(f"llm-{mode}", *parts, by_content=bool(basis))


def title_vectors(
    llm: LocalLLM, catalog: Catalog, cache_dir: Path, work: Work | None
) -> TitleSpace:
    """The title space of :mod:`~lumos_core.views.titles.judgements`, without its other tables."""
    return TitleSpace(judgements.space_vectors(llm, catalog, cache_dir, work))
