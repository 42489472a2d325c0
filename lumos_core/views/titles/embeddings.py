"""Title vectors by the language model: one vector per title, once per catalog and model.

Plain mean-pooled states of a causal model are useless here: a few directions that all texts share
dominate the rest. Instead there are three readings of one forward pass, each centred and half
whitened, then concatenated. They tell which item comes next as well as TF-IDF does among products,
and better among news (``benchmarks/embedding_pooling.py``).
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lumos_core.data.catalog import Catalog
from lumos_core.views.llm import prompts
from lumos_core.views.llm.find import LLMConfig, model_fingerprint
from lumos_core.views.llm.load import LocalLLM, load_llm
from lumos_core.views.titles.cache import cached_arrays
from lumos_core.views.titles.resumable import Pieces, Work
from lumos_core.views.titles.whitening import half_whitened

Floats = npt.NDArray[np.float32]

VERSION = "1"
TITLE_TOKENS = 32
_BATCH = 64
DIM = 384  # of each reading; more adds noise, less loses kinds of items
NEGLIGIBLE, LEAST = 1e-6, 1e-12
"""Spreads that are taken for rounding errors, see
:func:`~lumos_core.views.titles.whitening.half_whitening`."""
_LATE, _EARLY = 0.93, 0.27  # of the layers: late ones hold meaning, early ones still hold words


class Readings(NamedTuple):
    """Three poolings of a title's hidden states, each [N, hidden]."""

    meaning: Floats
    """Mean over the title's tokens, late layer."""
    words: Floats
    """Mean over the title's tokens weighted by rarity in the catalog, early layer."""
    gist: Floats
    """The last token, where the prompt asks for the title in one word, late layer."""


def title_embeddings(
    llm: LocalLLM, catalog: Catalog, cache_dir: Path, work: Work | None = None
) -> Floats:
    """Vectors whose cosine measures similarity of meaning.

    Returns:
        [N, H] float32, rows of length 1; row r is catalog index r + 1. H depends on the model and
        the size of the catalog.

    Raises:
        BudgetSpentError: the time of ``work`` ended before they were complete.
    """
    path = embeddings_path(llm.fingerprint, catalog, cache_dir)

    def compute(pieces: Pieces) -> dict[str, Floats]:
        return {"vectors": combine(read_titles(llm, catalog.titles, pieces))}

    return np.asarray(cached_arrays(path, compute, work)["vectors"], dtype=np.float32)


def stored_or_new_embeddings(config: LLMConfig, catalog: Catalog) -> Floats:
    """:func:`title_embeddings`; the model is loaded only if they are not in the cache yet."""
    path = embeddings_path(model_fingerprint(config), catalog, config.cache)

    def compute(pieces: Pieces) -> dict[str, Floats]:
        return {"vectors": combine(read_titles(load_llm(config), catalog.titles, pieces))}

    return np.asarray(cached_arrays(path, compute)["vectors"], dtype=np.float32)


def embeddings_path(model: str, catalog: Catalog, cache_dir: Path) -> Path:
    """Where the vectors of a catalog are, given a model fingerprint."""
    parts = (model, catalog.fingerprint, VERSION, prompts.VERSION)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return cache_dir / "catalogs" / f"embeddings-{key[:24]}.safetensors"


def combine(readings: Readings) -> Floats:
    """[N, H] the readings, each half whitened, concatenated; rows of length 1."""
    return unit(np.concatenate([half_whiten(reading, DIM) for reading in readings], axis=1))


def half_whiten(states: Floats, dim: int) -> Floats:
    """[N, <= dim] half-whitened principal components of the states; rows of length 1."""
    centred = states.astype(np.float64) - states.mean(axis=0, dtype=np.float64)
    scatter = centred.T @ centred
    # Signs stay as the library returns them: cosines do not depend on them, and vectors that are
    # already stored have these signs.
    components = half_whitened(centred, scatter, dim, negligible=NEGLIGIBLE, least=LEAST)
    if not components.shape[1]:  # a single title, or all the same
        return np.zeros((len(states), 1), dtype=np.float32)
    return unit(components.astype(np.float32))


def unit(vectors: Floats) -> Floats:
    """Rows scaled to length 1; zero rows stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), dtype=np.float32)


def read_titles(
    llm: LocalLLM,
    titles: Sequence[str],
    pieces: Pieces | None = None,
    rarity: Mapping[int, float] | None = None,
) -> Readings:
    """One forward pass over all titles, sorted by length so that there is little padding.

    Args:
        llm: the model.
        titles: in the order of the rows.
        pieces: store what is done.
        rarity: weight of every token in the mean over words; counted in the titles if not given.
    """
    tokens = embedding_tokens(llm, titles)
    if rarity is None:
        rarity = rarity_of(tokens)
    out = Readings(*(np.zeros((len(titles), llm.hidden_size), np.float32) for _ in range(3)))
    order = sorted(range(len(titles)), key=lambda row: len(tokens[row]))
    plan = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]

    def compute(rows: Sequence[int]) -> Mapping[str, Floats]:
        return _read_batch(llm, [tokens[row] for row in rows], rarity)._asdict()

    for rows, arrays in (pieces or Pieces()).each("titles", plan, compute):
        for name, array in arrays.items():
            getattr(out, name)[rows] = array
    return out


def embedding_tokens(llm: LocalLLM, titles: Sequence[str]) -> list[list[int]]:
    """Token ids of titles as :func:`read_titles` reads them."""
    return [llm.encode(prompts.title_piece(title))[:TITLE_TOKENS] for title in titles]


def _read_batch(llm: LocalLLM, tokens: list[list[int]], rarity: Mapping[int, float]) -> Readings:
    """The readings of some titles, given as token ids."""
    import torch

    before, after = llm.encode(prompts.EMBED_BEFORE), llm.encode(prompts.EMBED_AFTER)
    late, early = round(_LATE * llm.layers), round(_EARLY * llm.layers)
    texts = [title + after for title in tokens]
    longest = max(map(len, texts))
    ids = torch.full((len(texts), longest), llm.pad_id)
    weights = torch.zeros(2, len(texts), longest)  # of the late and of the early mean
    for r, (title, text) in enumerate(zip(tokens, texts, strict=True)):
        ids[r, : len(text)] = torch.tensor(text)
        weights[0, r, : len(title)] = 1.0
        weights[1, r, : len(title)] = torch.tensor([rarity[token] for token in title])
    llm.read.add(len(before) + sum(map(len, texts)), len(before) + ids.numel())
    # right padding needs no mask under causal attention: nothing looks ahead into it
    states = llm.hidden_states(ids, (late, early), before)
    weights /= weights.sum(-1, keepdim=True).clamp(min=1e-6)
    last = torch.tensor([len(text) - 1 for text in texts])
    return Readings(
        meaning=_weighted(weights[0], states[0]),
        words=_weighted(weights[1], states[1]),
        gist=states[0][torch.arange(len(texts)), last].numpy(),
    )


def rarity_of(titles: list[list[int]]) -> dict[int, float]:
    """Token -> log(N / titles it is in), a little above 0 even if it is in all."""
    counts = Counter(token for title in titles for token in set(title))
    return {token: float(np.log(len(titles) / n) + 0.01) for token, n in counts.items()}


def _weighted(weights: Any, states: Any) -> Floats:
    """[B, H] sums of torch tensors [B, T, H] under weights [B, T]."""
    return np.asarray((weights[:, None] @ states)[:, 0].numpy(), dtype=np.float32)
