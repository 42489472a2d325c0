"""Yardsticks that count instead of train: popularity, Markov transitions, nearness of titles.

Whoever claims that a trained model is worth its cost has to beat these. They read the pooled
training histories once and need seconds. What a yardstick leaves open (half-life, weight of titles)
is chosen from a small grid by NDCG@20 on the validation targets, as settings of models are.

=============== ==================================================================================
popularity      how often an item occurs in the training histories
markov-1        how often an item follows the last item
markov-3        the same at distances 1 to 3, and from the last three items
title-knn       cosine of TF-IDF titles with those of the history, the last items weighing most
markov-titles   markov-3 and title-knn, both as z-scores over the catalog, added
=============== ==================================================================================

No yardstick looks at a held-out item before it is part of the history that is ranked.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut, Split
from lumos_core.learning.batching import sorted_batches
from lumos_core.learning.evaluation import EVALUATION_BATCH, Scorer, target_ranks
from lumos_core.learning.metrics import SELECTION_METRIC, means, ranking_sums
from lumos_core.learning.suggestions import Suggestions
from lumos_core.views.titles.space import TitleSpace
from lumos_core.views.titles.tfidf import tfidf_vectors

POPULARITY = "popularity"
"""Name of the yardstick that counts items alone."""
HALF_LIVES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Grid of half-lives of a history's items, in items."""
TITLE_WEIGHTS = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Grid of weights of the titles' z-scores beside the z-scores of transitions."""
STEPS = 3
"""Largest distance of the transitions of markov-3."""
_TIE = 1e-9  # popularity's share of a Markov score: decides ties, and nothing else

Floats = npt.NDArray[np.float64]
Setting = Mapping[str, float]
"""A point of a yardstick's grid."""


@dataclass(frozen=True)
class Counted:
    """What a yardstick achieves.

    Attributes:
        chosen: the point of its grid that is best on the validation targets.
        validation, test: float64 [U] rank of every user's target at that point.
        suggested: what is suggested to the users before their test targets.
    """

    chosen: dict[str, float]
    validation: np.ndarray
    test: np.ndarray
    suggested: Suggestions


@dataclass(frozen=True)
class Yardstick:
    """A way to score by counts.

    Attributes:
        grid: settings to choose from; at equal NDCG@20, the first.
        scores: histories and settings → float64 [B, N] scores for each setting in turn.
    """

    grid: Sequence[Setting]
    scores: Callable[[Sequences, Sequence[Setting]], Iterator[Floats]]


def count(
    name: str, users: Sequences, titles: Sequence[str], split: Split | None = None
) -> Counted:
    """Rank the held-out items of all users by a yardstick.

    Args:
        name: a key of :data:`YARDSTICKS`.
        users: all users; each needs three interactions, unless ``split`` says otherwise.
        titles: of the items, in catalog order.
        split: what is counted and what is ranked; leave-one-out if not given.
    """
    split = split or LeaveOneOut(users)
    yardstick = YARDSTICKS[name](split.train(), titles)
    rows = _ranks(yardstick, yardstick.grid, *split.validation())
    values = [means(ranking_sums(row)).get(SELECTION_METRIC, 0.0) for row in rows]
    best = int(np.argmax(values))
    chosen = yardstick.grid[best]
    suggested = Suggestions(len(titles))
    (test,) = _ranks(yardstick, [chosen], *split.test(), suggested)
    return Counted(dict(chosen), rows[best], test, suggested)


# ---------------------------------------------------------------- scores
def popularity_scores(train: Sequences, num_items: int) -> Floats:
    """[N] how often each item occurs in the training histories."""
    return np.bincount(train.items, minlength=num_items + 1)[1:].astype(np.float64)


def transitions(train: Sequences, num_items: int, steps: int) -> Any:
    """[N, N] sparse CSR: row = item before, column = item after. A pair at distance d counts 1 / d.
    Rows are divided by the square root of their sum, which tames items that everything follows."""
    from scipy.sparse import coo_array, diags_array

    users = np.repeat(np.arange(len(train)), train.lengths)
    items = train.items.astype(np.int64) - 1
    before, after, weights = [], [], []
    for distance in range(1, steps + 1):
        same = users[:-distance] == users[distance:]
        before.append(items[:-distance][same])
        after.append(items[distance:][same])
        weights.append(np.full(int(same.sum()), 1 / distance))
    pairs = np.concatenate(before), np.concatenate(after)
    counts = coo_array((np.concatenate(weights), pairs), shape=(num_items, num_items)).tocsr()
    sums = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    return diags_array(1 / np.sqrt(np.where(sums > 0, sums, 1.0))) @ counts


def markov_scores(table: Any, popularity: Floats, histories: Sequences, steps: int) -> Floats:
    """[B, N]: the rows of the last ``steps`` items of each history, weighted 1, 1/2, 1/3, …; where
    that is equal, the more popular item is ahead."""
    from scipy.sparse import csr_array

    rows, columns, weights = [], [], []
    for b, history in enumerate(histories):
        last = history[::-1][:steps]
        rows += [b] * len(last)
        columns += (last - 1).tolist()
        weights += (1 / np.arange(1, len(last) + 1)).tolist()
    read = csr_array((weights, (rows, columns)), shape=(len(histories), len(popularity)))
    scores = np.asarray((read @ table).toarray(), dtype=np.float64)
    tie: Floats = popularity * (_TIE / max(float(popularity.max()), 1.0))
    return scores + tie


def standardised(scores: Floats) -> Floats:
    """Rows as z-scores; a row without any spread becomes zero."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    spread = scores.std(axis=1, keepdims=True)
    scaled: Floats = centred / np.where(spread > 1e-12, spread, np.inf)
    return scaled


# ---------------------------------------------------------------- yardsticks
def _popularity(train: Sequences, titles: Sequence[str]) -> Yardstick:
    counts = popularity_scores(train, len(titles))

    def scores(histories: Sequences, settings: Sequence[Setting]) -> Iterator[Floats]:
        for _ in settings:
            yield np.tile(counts, (len(histories), 1))

    return Yardstick([{}], scores)


def _markov(steps: int) -> "Builder":
    def build(train: Sequences, titles: Sequence[str]) -> Yardstick:
        table = transitions(train, len(titles), steps)
        popularity = popularity_scores(train, len(titles))

        def scores(histories: Sequences, settings: Sequence[Setting]) -> Iterator[Floats]:
            for _ in settings:
                yield markov_scores(table, popularity, histories, steps)

        return Yardstick([{}], scores)

    return build


def _title_knn(train: Sequences, titles: Sequence[str]) -> Yardstick:
    space = TitleSpace(tfidf_vectors(titles))

    def scores(histories: Sequences, settings: Sequence[Setting]) -> Iterator[Floats]:
        lists = [history.tolist() for history in histories]
        for setting in settings:
            yield space.near(lists, setting["half-life"]).astype(np.float64)

    return Yardstick([{"half-life": half_life} for half_life in HALF_LIVES], scores)


def _markov_titles(train: Sequences, titles: Sequence[str]) -> Yardstick:
    markov, near = _markov(STEPS)(train, titles), _title_knn(train, titles)

    def scores(histories: Sequences, settings: Sequence[Setting]) -> Iterator[Floats]:
        (counted,) = map(standardised, markov.scores(histories, [{}]))
        for half_life, group in groupby(settings, key=lambda setting: setting["half-life"]):
            (close,) = map(standardised, near.scores(histories, [{"half-life": half_life}]))
            for setting in group:
                yield counted + setting["title-weight"] * close

    grid = [{"half-life": h, "title-weight": w} for h in HALF_LIVES for w in TITLE_WEIGHTS]
    return Yardstick(grid, scores)


Builder = Callable[[Sequences, Sequence[str]], Yardstick]
"""Training histories and the catalog's titles → a yardstick."""
YARDSTICKS: Mapping[str, Builder] = {
    POPULARITY: _popularity,
    "markov-1": _markov(1),
    "markov-3": _markov(STEPS),
    "title-knn": _title_knn,
    "markov-titles": _markov_titles,
}


def _ranks(
    yardstick: Yardstick,
    settings: Sequence[Setting],
    histories: Sequences,
    targets: np.ndarray,
    suggested: Suggestions | None = None,
) -> np.ndarray:
    """float64 [settings, U]; each batch of users is scored once for all settings."""
    ranks = np.empty((len(settings), len(histories)))
    for users in sorted_batches(histories.lengths, EVALUATION_BATCH):
        chosen = histories.subset(users)
        for row, scores in enumerate(yardstick.scores(chosen, settings)):
            ranks[row, users] = target_ranks(_scorer(scores), chosen, targets[users], suggested)
    return ranks


def _scorer(scores: Floats) -> Scorer:
    return lambda users: torch.from_numpy(scores[users])
