"""Users that malicious nodes train on. Every history ends with two extra items: the node's
leave-one-out split holds these back, so that it trains on everything before them."""

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
    """Copies of the known histories of honest users; random histories if none is known."""
    if not knowledge.histories:
        return Sequences.from_lists(
            [_held_back(rng.integers(1, knowledge.items + 1, size=8)) for _ in range(users)]
        )
    chosen = rng.choice(len(knowledge.histories), size=users)
    return Sequences.from_lists([_held_back(knowledge.histories[i]) for i in chosen])


def noisy_users(
    knowledge: Knowledge, target: int, users: int, rng: np.random.Generator
) -> Sequences:
    """Known users with every interaction replaced by a random item, so labels have no meaning."""
    return replace_interactions(known_users(knowledge, target, users, rng), 1.0, knowledge, rng)


def random_fakes(
    knowledge: Knowledge, target: int, users: int, rng: np.random.Generator
) -> Sequences:
    """Fake users whose histories alternate between random items and the target."""
    everything = np.arange(1, knowledge.items + 1)
    return _fakes(everything, target, users, rng)


def popular_fakes(
    knowledge: Knowledge, target: int, users: int, rng: np.random.Generator
) -> Sequences:
    """Fake users whose histories alternate between popular items and the target (bandwagon);
    random items instead of popular ones if no history is known."""
    if not knowledge.histories:
        return random_fakes(knowledge, target, users, rng)
    count = max(int(knowledge.items * POPULAR_SHARE), 10)
    return _fakes(knowledge.popular(count), target, users, rng)


def replace_interactions(
    sequences: Sequences, share: float, knowledge: Knowledge, rng: np.random.Generator
) -> Sequences:
    """Replace every *training* interaction by a random item with probability ``share``. The last
    two items of each history, the targets of validation and test, stay as they are."""
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
    """The history and two more items, which the split will hold back."""
    padded: list[int] = [*history.tolist(), *history[:1].tolist() * (MIN_HISTORY - 1)]
    return padded
