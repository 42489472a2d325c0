"""What the model computes once about a catalog: tokens, vectors, priors, substitutes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lumos_core.data.catalog import Catalog
from lumos_core.views.llm import prompts
from lumos_core.views.llm.likelihood import Request, batches_of, score_batch
from lumos_core.views.llm.load import LocalLLM
from lumos_core.views.titles import embeddings
from lumos_core.views.titles.cache import cached_arrays
from lumos_core.views.titles.catalog_artefact import CatalogArtefact
from lumos_core.views.titles.resumable import Pieces, Work
from lumos_core.views.titles.space import Floats, Ints, TitleSpace
from lumos_core.views.titles.tfidf import tfidf_embeddings

VERSION = "4"
TITLE_TOKENS = 12  # of a title in prompts; the rest are sizes, colours and part numbers
PRIOR_WEIGHT = 0.8  # beta: how much of a title's own likelihood is subtracted
NEARNESS_WEIGHT = 2.0  # of nearness in meaning; the model's judgement has weight 1
NEIGHBOURS = 6  # candidates for a substitute, by embedding
Judges = Literal["future", "all"]
_PACK = 24  # candidates per request where the context is short
_CONTEXTS, _CONTEXT_ITEMS = 1, 4  # random histories, and items in each, to measure priors behind
WORDING_DIM = 256  # of the part of the title space that compares wording


@dataclass(frozen=True)
class CatalogTables:
    """Everything about the items of a catalog that writing views needs."""

    titles: list[list[int]]
    """Token ids of every title, at most TITLE_TOKENS, never empty."""
    space: TitleSpace
    prior: Floats
    """[N] mean log p(title) behind histories that have nothing to do with it."""
    substitutes: Ints
    """[N, k] catalog indices: what can replace an item, best first."""
    basis: str = ""
    """What vectors and priors are relative to: digest of a frozen basis; empty: the catalog."""


class ListPrompt:
    """Token ids of list prompts: a head, a line with a title per item, then one more line."""

    def __init__(self, llm: LocalLLM, head: str, titles: list[list[int]]) -> None:
        self._head, self._break = llm.encode(head), llm.encode(prompts.BREAK)
        self._titles = titles

    def after(self, items: list[int]) -> list[int]:
        """The context in which the next title is expected, after items (catalog indices)."""
        context = list(self._head)
        for item in items:
            context += self._break + self._titles[item - 1]
        return context + self._break

    def title(self, item: int) -> list[int]:
        """The title of an item (catalog index)."""
        return self._titles[item - 1]

    def request(self, items: list[int], candidates: list[int]) -> Request:
        """Score ``candidates`` (catalog indices) behind ``items``."""
        return Request(self.after(items), [self._titles[c - 1] for c in candidates])


def catalog_tables(
    llm: LocalLLM,
    catalog: Catalog,
    noun: str,
    cache_dir: Path,
    work: Work | None = None,
    judges: Judges = "future",
    artefact: CatalogArtefact | None = None,
) -> CatalogTables:
    """Compute the tables, or read them from the cache folder.

    The model reads about 15 tokens an item, and 30 more if it judges substitutes, too. Other
    processes that need the same tables wait for the first to finish. An interruption costs one
    batch.

    Args:
        llm: the model.
        catalog: the public catalog.
        noun: what a history is.
        cache_dir: for what is computed once per machine.
        work: budget and progress.
        judges: "future": substitutes are ordered by nearness in meaning; "all": by nearness and the
            model's judgement.
        artefact: has vectors and priors of all titles; then the model does not read them.

    Raises:
        BudgetSpentError: the time of ``work`` ended before they were complete.
    """
    titles = title_tokens(llm, catalog)
    prompt = ListPrompt(llm, prompts.list_head(noun), titles)
    model, fixed, basis = llm.fingerprint, catalog.fingerprint, ""
    if artefact is not None:
        basis, fixed = artefact.about.basis, f"{fixed}/{artefact.about.digest}"
        space, prior = artefact_space(artefact, catalog), artefact.of(catalog.titles).prior
    else:
        space = TitleSpace(space_vectors(llm, catalog, cache_dir, work))
        prior = cached_arrays(
            priors_path(model, catalog, noun, cache_dir),
            lambda pieces: {"prior": priors(llm, prompt, len(titles), pieces)},
            work,
        )["prior"]
    if judges == "all":
        path = _path(cache_dir, "substitutes", model, fixed, noun, versions())
    else:
        path = _path(cache_dir, "neighbours", model, fixed, space_version(), str(NEIGHBOURS))

    def substitutes(pieces: Pieces) -> dict[str, Ints]:
        if judges == "all":
            return {"items": substitute_table(llm, prompt, space, prior, pieces)}
        return {"items": space.neighbours(NEIGHBOURS)[0]}

    found = cached_arrays(path, substitutes, work)["items"]
    return CatalogTables(titles, space, prior, found, basis)


def artefact_space(artefact: CatalogArtefact, catalog: Catalog) -> TitleSpace:
    """The space of :func:`title_space`, from an artefact that has all titles of the catalog."""
    rows = artefact.of(catalog.titles)
    parts = [embeddings.unit(part.astype(np.float32)) for part in (rows.meaning, rows.wording)]
    return TitleSpace(embeddings.unit(np.concatenate(parts, axis=1)))


def space_vectors(
    llm: LocalLLM, catalog: Catalog, cache_dir: Path, work: Work | None = None
) -> Floats:
    """[N, H] :func:`title_space`, computed once per machine.

    Raises:
        BudgetSpentError: the time of ``work`` ended before they were complete.
    """

    def compute(pieces: Pieces) -> dict[str, Floats]:
        meaning = embeddings.title_embeddings(llm, catalog, cache_dir, pieces.work)
        return {"vectors": title_space(meaning, catalog)}

    path = _path(cache_dir, "space", llm.fingerprint, catalog.fingerprint, space_version())
    return np.asarray(cached_arrays(path, compute, work)["vectors"], dtype=np.float32)


def priors_path(model: str, catalog: Catalog, noun: str, cache_dir: Path) -> Path:
    """Where the priors of a catalog are, given a model fingerprint."""
    numbers = (TITLE_TOKENS, _PACK, _CONTEXTS, _CONTEXT_ITEMS)
    versions = (VERSION, prompts.VERSION, *map(str, numbers))
    return _path(cache_dir, "priors", model, catalog.fingerprint, noun, *versions)


def _path(cache_dir: Path, kind: str, *parts: str) -> Path:
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return cache_dir / "catalogs" / f"{kind}-{key[:24]}.safetensors"


def space_version() -> str:
    """Version of everything that changes the vectors of :func:`space_vectors`."""
    return f"{VERSION}/{embeddings.VERSION}/{prompts.VERSION}"


def title_space(meaning: Floats, catalog: Catalog) -> Floats:
    """[N, H] float32: vectors of meaning by the model, concatenated with vectors of wording.

    Model numbers and brands mean little to a small model. Meaning and wording together find more of
    what comes next than either alone among products, and no more than meaning alone among news
    (``benchmarks/embedding_pooling.py``).
    """
    wording = tfidf_embeddings(catalog.titles, WORDING_DIM, seed=0)
    return embeddings.unit(np.concatenate([meaning, wording], axis=1))


def versions() -> str:
    """Versions of everything in this module, and in those it uses, that changes the tables."""
    versions = (VERSION, prompts.VERSION, embeddings.VERSION)
    numbers = (TITLE_TOKENS, PRIOR_WEIGHT, NEARNESS_WEIGHT, NEIGHBOURS)
    return "/".join(map(str, versions + numbers))


def title_tokens(llm: LocalLLM, catalog: Catalog) -> list[list[int]]:
    """Token ids of every title as it stands in a prompt, at most TITLE_TOKENS."""
    return prompt_tokens(llm, catalog.titles)


def prompt_tokens(llm: LocalLLM, titles: Sequence[str]) -> list[list[int]]:
    """:func:`title_tokens` of some titles."""
    return [llm.encode(prompts.title_piece(title))[:TITLE_TOKENS] for title in titles]


def priors(llm: LocalLLM, prompt: ListPrompt, items: int, pieces: Pieces | None = None) -> Floats:
    """[N] mean log p(title) behind random histories, the same for all titles.

    One history, as long as a user's: batches read it once, and a second one would cost every title
    its tokens again.

    An empty list would be cheaper. But any history, even a random one, makes titles that are
    written like others of the catalog more likely, and a judgement should not depend on that.
    """
    contexts = prior_contexts(prompt, items)
    return priors_behind(llm, contexts, [prompt.title(i) for i in range(1, items + 1)], pieces)


def prior_contexts(prompt: ListPrompt, items: int) -> list[list[int]]:
    """Token ids of the random histories behind which priors are measured."""
    drawn = np.random.default_rng(0).integers(1, items + 1, (_CONTEXTS, _CONTEXT_ITEMS))
    return [prompt.after(history) for history in drawn.tolist()]


def priors_behind(
    llm: LocalLLM,
    contexts: Sequence[list[int]],
    titles: Sequence[list[int]],
    pieces: Pieces | None = None,
) -> Floats:
    """[N] mean log p(title) behind the contexts, all given as token ids."""
    # sorted: titles that begin alike stand in one pack, and share the beginning
    order = sorted(range(len(titles)), key=lambda row: titles[row])
    starts = range(0, len(order), _PACK)
    packs = [[titles[row] for row in order[start : start + _PACK]] for start in starts]
    requests = [Request(context, pack) for context in contexts for pack in packs]
    scores = np.concatenate(_scored(llm, requests, "priors", pieces))
    means = np.empty(len(titles), dtype=np.float32)
    means[order] = scores.reshape(len(contexts), len(titles)).mean(axis=0)
    return means


def substitute_table(
    llm: LocalLLM,
    prompt: ListPrompt,
    space: TitleSpace,
    prior: Floats,
    pieces: Pieces | None = None,
) -> Ints:
    """[N, k] the nearest items in meaning, ordered by nearness and the model's judgement.

    The judgement: how much more likely a title becomes behind the item that it is to replace.
    """
    neighbours, cosines = space.neighbours(NEIGHBOURS)
    if not neighbours.shape[1]:  # a single item
        return neighbours
    requests = [prompt.request([item], row.tolist()) for item, row in enumerate(neighbours, 1)]
    likelihood = np.stack(_scored(llm, requests, "substitutes", pieces))
    scores = judged(cosines, likelihood - PRIOR_WEIGHT * prior[neighbours - 1])
    return np.take_along_axis(neighbours, np.argsort(-scores, axis=1, kind="stable"), axis=1)


def _scored(
    llm: LocalLLM, requests: Sequence[Request], stage: str, pieces: Pieces | None
) -> list[Floats]:
    """:func:`~lumos_core.views.llm.likelihood.log_likelihoods`, each batch stored as a piece."""
    results: list[Floats] = [np.zeros(0, dtype=np.float32)] * len(requests)

    def compute(rows: Sequence[int]) -> dict[str, Floats]:
        return {"scores": np.concatenate(score_batch(llm, [requests[row] for row in rows]))}

    for rows, arrays in (pieces or Pieces()).each(stage, batches_of(llm, requests), compute):
        ends = np.cumsum([len(requests[row].candidates) for row in rows])[:-1]
        for row, scores in zip(rows, np.split(arrays["scores"], ends), strict=True):
            results[row] = scores
    return results


def judged(nearness: Floats, pmi: Floats) -> Floats:
    """Nearness in meaning and the model's judgement on one scale, over the last axis."""
    return NEARNESS_WEIGHT * standard(nearness) + standard(pmi)


def standard(scores: Floats) -> Floats:
    """Scores shifted and scaled to mean 0 and spread 1 along the last axis (all equal: 0)."""
    centred = scores - scores.mean(axis=-1, keepdims=True)
    spread = centred.std(axis=-1, keepdims=True)
    return np.asarray(centred / np.maximum(spread, 1e-6), dtype=np.float32)
