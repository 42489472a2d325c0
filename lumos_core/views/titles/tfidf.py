"""Titles as vectors of words and characters: similarity of strings, without a language model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def tfidf_vectors(titles: Sequence[str]) -> Any:
    """[N, V] sparse CSR, rows of length 1: words and word pairs, and character 3- to 5-grams."""
    return _unit(_vectorizer().fit_transform(_texts(titles)))


def tfidf_beside(titles: Sequence[str], others: Sequence[str]) -> tuple[Any, Any]:
    """:func:`tfidf_vectors` of titles, and of others (at least one) by the n-grams, and their
    weights, of the former."""
    vectorizer = _vectorizer()
    vectors = _unit(vectorizer.fit_transform(_texts(titles)))
    return vectors, _unit(vectorizer.transform(_texts(others)))


def tfidf_embeddings(titles: Sequence[str], dim: int, seed: int) -> npt.NDArray[np.float32]:
    """[N, min(dim, N, V)] float32: TF-IDF reduced by a truncated SVD, rows of length 1."""
    from sklearn.preprocessing import normalize

    return np.asarray(normalize(tfidf_coordinates(titles, dim, seed)), dtype=np.float32)


def tfidf_coordinates(titles: Sequence[str], dim: int, seed: int) -> Any:
    """As :func:`tfidf_embeddings`, before rows are scaled to length 1."""
    from sklearn.decomposition import TruncatedSVD

    vectors = tfidf_vectors(titles)
    components = min(dim, *vectors.shape)
    with np.errstate(invalid="ignore"):  # if all titles are alike, a share of variance is 0 / 0
        return TruncatedSVD(components, random_state=seed).fit_transform(vectors)


def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    return make_union(words, characters)


def _texts(titles: Sequence[str]) -> list[str]:
    # a leading word keeps the vocabulary from being empty when no title has a letter
    return [f"title {title}" for title in titles]


def _unit(counts: Any) -> Any:
    from sklearn.preprocessing import normalize

    return normalize(counts).astype(np.float32)
