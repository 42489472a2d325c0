"""Titles as vectors of words and characters: similarity of strings, without a language model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def tfidf_vectors(titles: Sequence[str]) -> Any:
    """[N, V] sparse CSR, rows of length 1: words and word pairs, and character 3- to 5-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union
    from sklearn.preprocessing import normalize

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    # a leading word keeps the vocabulary from being empty when no title has a letter
    texts = [f"title {title}" for title in titles]
    return normalize(make_union(words, characters).fit_transform(texts)).astype(np.float32)


def tfidf_embeddings(titles: Sequence[str], dim: int, seed: int) -> npt.NDArray[np.float32]:
    """[N, min(dim, N, V)] float32: TF-IDF reduced by a truncated SVD, rows of length 1."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    vectors = tfidf_vectors(titles)
    components = min(dim, *vectors.shape)
    with np.errstate(invalid="ignore"):  # if all titles are alike, a share of variance is 0 / 0
        reduced = TruncatedSVD(components, random_state=seed).fit_transform(vectors)
    return np.asarray(normalize(reduced), dtype=np.float32)
