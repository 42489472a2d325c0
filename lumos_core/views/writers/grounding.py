"""Matches lines that a model wrote to catalog items: the same title, or the most similar one."""

import re
import unicodedata
from collections.abc import Collection, Sequence

import numpy as np

MIN_SIMILARITY = 0.5  # cosine of character n-grams; below it a line is about something else
_MARK = re.compile(r"^\s*(?:[-*•–—]+|\(?\d{1,2}[.):])\s*")
_QUOTES = " \t*_\"'“”‘’«»`"


def parse_lines(text: str) -> list[str]:
    """The titles in a generated list: lines without bullets, numbers, quotes; no introductions."""
    lines = (_MARK.sub("", line).strip(_QUOTES) for line in text.splitlines())
    return [line for line in lines if line and not line.endswith(":")]


def normalise(title: str) -> str:
    """Letters and digits of a title in one spelling: without case, punctuation and variants of the
    same character."""
    folded = unicodedata.normalize("NFKC", title).casefold()
    return " ".join(re.findall(r"\w+", folded))


class Grounder:
    """Finds the catalog item that a line of text means.

    Args:
        titles: of items 1..N, in order.
        min_similarity: cosine in [0, 1] below which nothing is found.
    """

    def __init__(self, titles: Sequence[str], min_similarity: float = MIN_SIMILARITY) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._min = min_similarity
        spelt = [normalise(title) for title in titles]
        self._exact: dict[str, list[int]] = {}
        for item, title in enumerate(spelt, start=1):
            self._exact.setdefault(title, []).append(item)
        self._vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5))
        # "title" keeps the vocabulary from being empty when no title has a letter
        self._vectorizer.fit([*spelt, "title"])
        self._vectors = self._vectorizer.transform(spelt)

    def ground(
        self,
        lines: Sequence[str],
        taken: Collection[int] = (),
        allowed: Collection[int] | None = None,
    ) -> list[int | None]:
        """An item for each line, none twice.

        Args:
            lines: titles as generated.
            taken: catalog indices that must not be found, such as the history's.
            allowed: the only catalog indices that may be found; None for all.

        Returns:
            per line a catalog index. None if no item is similar enough, or if the most similar one
            must not be found: a line that copies the history does not mean the next best item.
        """
        if not lines:
            return []
        spelt = [normalise(line) for line in lines]
        cosines = (self._vectorizer.transform(spelt) @ self._vectors.T).toarray()
        closed = np.zeros(cosines.shape[1], dtype=bool)
        if allowed is not None:
            closed[:] = True
            closed[np.asarray(sorted(allowed), dtype=int) - 1] = False
        closed[np.asarray(sorted(set(taken)), dtype=int) - 1] = True
        found: list[int | None] = []
        for line, row in zip(spelt, cosines, strict=True):
            item = self._best(line, row, closed)
            found.append(item)
            if item is not None:
                closed[item - 1] = True
        return found

    def _best(self, line: str, cosines: np.ndarray, closed: np.ndarray) -> int | None:
        if line in self._exact:
            return next((item for item in self._exact[line] if not closed[item - 1]), None)
        nearest = int(cosines.argmax())
        return nearest + 1 if cosines[nearest] >= self._min and not closed[nearest] else None
