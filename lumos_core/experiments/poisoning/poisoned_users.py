"""What malicious nodes train on. All histories end with two items that the node's own leave-one-out
split holds back, so that everything before them is trained on."""

from collections.abc import Callable

import numpy as np

from lumos_core.data.sequences import MIN_HISTORY, Sequences
from lumos_core.experiments.poisoning.knowledge import Knowledge

POPULAR_SHARE = 0.05
"""Share of the catalog that counts as popular."""
LONGEST_FAKE = 20

MakeUsers = Callable[[Knowledge, int, int, np.random.Generator], Sequences]
"""Knowledge, target item, number of users, random numbers → the users of one malicious node."""


def known_users(
    knowledge: Knowledge, target: int, users: int, rng: np.random.Generator
) -> Sequences:
    """Copies of what is known of honest users; random histories where nothing is."""
    if not knowledge.histories:
        return Sequences.from_lists(
            [_held_back(rng.integers(1, knowledge.items + 1, size=8)) for _ in range(users)]
        )
    chosen = rng.choice(len(knowledge.histories), size=users)
    return Sequences.from_lists([_held_back(knowledge.histories[i]) for i in chosen])


def noisy_users(
    knowledge: Knowledge, target: int, users: int, rng: np.random.Generator
) -> Sequences:
    """Known users, every interaction replaced by a random item: labels that mean nothing."""
    return replace_interactions(known_users(knowledge, target, users, rng), 1.0, knowledge, rng)


def random_fakes(
    knowledge: Knowledge, target: int, users: int, rng: np.random.Generator
) -> Sequences:
    """Fake users who go back to the target after every random item."""
    everything = np.arange(1, knowledge.items + 1)
    return _fakes(everything, target, users, rng)


def popular_fakes(
    knowledge: Knowledge, target: int, users: int, rng: np.random.Generator
) -> Sequences:
    """Fake users who go back to the target after every popular item (bandwagon); after random
    items where nothing is known."""
    if not knowledge.histories:
        return random_fakes(knowledge, target, users, rng)
    count = max(int(knowledge.items * POPULAR_SHARE), 10)
    return _fakes(knowledge.popular(count), target, users, rng)


def replace_interactions(
    sequences: Sequences, share: float, knowledge: Knowledge, rng: np.random.Generator
) -> Sequences:
    """Every *training* interaction becomes a random item with probability ``share``; the last two
    of each history, which are the targets of validation and test, stay as they are."""
    items = sequences.items.copy()
    replaced = rng.random(len(items)) < share
    for back in (1, 2):
        replaced[sequences.offsets[1:] - back] = False
    items[replaced] = rng.integers(1, knowledge.items + 1, size=int(replaced.sum()))
    return Sequences(sequences.user_ids, items, sequences.offsets)


def _fakes(fillers: np.ndarray, target: int, users: int, rng: np.random.Generator) -> Sequences:
    fillers = fillers[fillers != target]
    histories = []
    for _ in range(users):
        history = np.full(LONGEST_FAKE, target)
        history[::2] = rng.choice(fillers, size=LONGEST_FAKE // 2)
        histories.append(_held_back(history))
    return Sequences.from_lists(histories)


def _held_back(history: np.ndarray) -> list[int]:
    """The history and two more items, for the split to hold back."""
    padded: list[int] = [*history.tolist(), *history[:1].tolist() * (MIN_HISTORY - 1)]
    return padded
