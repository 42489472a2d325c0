"""What the language model says about a catalog, once: tokens, vectors, priors, substitutes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lumos_core.data.catalog import Catalog
from lumos_core.views import embeddings, prompts
from lumos_core.views.cached import cached_arrays
from lumos_core.views.candidates import Floats, Ints, TitleSpace
from lumos_core.views.llm import LocalLLM
from lumos_core.views.scoring import Request, log_likelihoods

VERSION = "1"
TITLE_TOKENS = 12  # of a title in prompts; the rest are sizes, colours and part numbers
PRIOR_WEIGHT = 0.7  # beta: how much of a title's own likelihood is taken off
NEIGHBOURS = 6  # candidates for a substitute, by embedding
_PACK = 16  # candidates per request where the context is short


@dataclass(frozen=True)
class CatalogTables:
    """Everything item-side that writing views needs."""

    titles: list[list[int]]
    """Token ids of every title, at most TITLE_TOKENS, never empty."""
    space: TitleSpace
    prior: Floats
    """[N] log p(title) as the first entry of a list of the domain."""
    substitutes: Ints
    """[N, k] catalog indices: what can stand in for an item, best first."""


class ListPrompt:
    """Token ids of list prompts: head, then a bullet and a title each, then an open bullet."""

    def __init__(self, llm: LocalLLM, head: str, titles: list[list[int]]) -> None:
        self._head, self._bullet = llm.encode(head), llm.encode(prompts.BULLET)
        self._titles = titles

    def after(self, items: list[int]) -> list[int]:
        """The context in which the next title is expected, after items (catalog indices)."""
        context = list(self._head)
        for item in items:
            context += self._bullet + self._titles[item - 1]
        return context + self._bullet

    def request(self, items: list[int], candidates: list[int]) -> Request:
        """Score ``candidates`` (catalog indices) behind ``items``."""
        return Request(self.after(items), [self._titles[c - 1] for c in candidates])


def catalog_tables(llm: LocalLLM, catalog: Catalog, noun: str, cache_dir: Path) -> CatalogTables:
    """Compute the tables, or read them from the cache folder.

    Takes about 0.1 CPU-seconds an item with a model of 135 M weights; other processes that need
    the same tables wait for the first to finish.
    """
    titles = title_tokens(llm, catalog)
    space = TitleSpace(embeddings.title_embeddings(llm, catalog, cache_dir))
    parts = (llm.fingerprint, catalog.fingerprint, noun, fingerprint())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def compute() -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]:
        return {
            "prior": priors(llm, ListPrompt(llm, prompts.list_head(noun), titles), len(titles)),
            "substitutes": substitute_table(
                llm, ListPrompt(llm, prompts.similar_head(noun), titles), space
            ),
        }

    arrays = cached_arrays(cache_dir / "catalogs" / f"tables-{key[:24]}.safetensors", compute)
    return CatalogTables(titles, space, arrays["prior"], arrays["substitutes"])


def fingerprint() -> str:
    """Of everything in this module and below that changes the tables."""
    settings = (
        VERSION,
        prompts.VERSION,
        embeddings.VERSION,
        TITLE_TOKENS,
        PRIOR_WEIGHT,
        NEIGHBOURS,
    )
    return "/".join(map(str, settings))


def title_tokens(llm: LocalLLM, catalog: Catalog) -> list[list[int]]:
    """Token ids of every title as it stands in a prompt, at most TITLE_TOKENS."""
    return [llm.encode(prompts.title_piece(title))[:TITLE_TOKENS] for title in catalog.titles]


def priors(llm: LocalLLM, prompt: ListPrompt, items: int) -> Floats:
    """[N] log p(title) behind an empty list."""
    indices = list(range(1, items + 1))
    packs = [indices[start : start + _PACK] for start in range(0, items, _PACK)]
    return np.concatenate(log_likelihoods(llm, [prompt.request([], pack) for pack in packs]))


def substitute_table(llm: LocalLLM, prompt: ListPrompt, space: TitleSpace) -> Ints:
    """[N, k] the nearest items in meaning, ordered by nearness and the model's judgement alike.

    The judgement: how much likelier a title becomes in a list of similar things behind the item.
    """
    neighbours, cosines = space.neighbours(NEIGHBOURS)
    if not neighbours.shape[1]:  # a single item
        return neighbours
    prior = priors(llm, prompt, len(space))
    requests = [prompt.request([item], row.tolist()) for item, row in enumerate(neighbours, 1)]
    likelihood = np.stack(log_likelihoods(llm, requests))
    pmi = likelihood - PRIOR_WEIGHT * prior[neighbours - 1]
    order = np.argsort(-(standard(cosines) + standard(pmi)), axis=1, kind="stable")
    return np.take_along_axis(neighbours, order, axis=1)


def standard(scores: Floats) -> Floats:
    """Scores shifted and scaled to mean 0 and spread 1 along the last axis (all equal: 0)."""
    centred = scores - scores.mean(axis=-1, keepdims=True)
    spread = centred.std(axis=-1, keepdims=True)
    return np.asarray(centred / np.maximum(spread, 1e-6), dtype=np.float32)
