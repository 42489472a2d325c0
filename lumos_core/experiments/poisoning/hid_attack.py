"""An attack like HidAttack: a bandit chooses among attacks, and what is sent stays within the range
of honest deltas.

Ali et al., "HidAttack: An Effective and Undetectable Model Poisoning Attack to Federated
Recommenders"; the description follows the authors' code (waqar-uestc/HidAttack).

The paper promotes a target item with four attacks of different kinds (fake users, item and user
embeddings that are approximated), so that updates of malicious nodes are not alike, and an
ε-greedy bandit learns which one works: the reward is the exposure of the target, the mean of ER@5,
10, 20 and 30.

Here the arms are: training on fake users alone, alignment with popular items (PIECK-IPE), alignment
with known users (PIECK-UEA), and alignment with made-up users, whose encodings are random
(A-ra; Rong et al., IJCAI 2022). Every malicious node has a bandit of its own.

Differences. In the authors' code an arm is played for a whole training; here one is played a round,
and its reward is how exposed the target is among the users that the attacker knows, in the next
global model that it receives, since it knows no others. "Hidden" means here: the target's row moves
no further than the longest row of honest training, and nobody lies about its number of users.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lumos_core.experiments.poisoning.updates import (
    Situation,
    align_items,
    align_towards,
    align_users,
    global_model,
    honest,
    surrogates,
)
from lumos_core.federation.aggregation.clipping import row_norms
from lumos_core.learning.parameters import ITEM_TABLE, Params

EXPLORE = 0.1
CUTOFFS = (5, 10, 20, 30)
MADE_UP = 256


def align_made_up(s: Situation) -> Params:
    """The target's embedding moves towards users whose encodings are drawn at random, with the mean
    and the spread of the item embeddings."""
    items = s.params[ITEM_TABLE][1:]
    drawn = s.rng.normal(items.mean(axis=0), items.std(axis=0), (MADE_UP, items.shape[1]))
    return align_towards(s, drawn.astype(np.float32))


ARMS: dict[str, Callable[[Situation], Params]] = {
    "fake users": honest,
    "popular items": align_items,
    "known users": align_users,
    "made-up users": align_made_up,
}


@dataclass
class Bandit:
    """ε-greedy: the arm with the best mean reward, or sometimes any; ties are broken at random."""

    rewards: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ARMS, 0.0))
    played: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ARMS, 0))
    last: str = ""

    def learn(self, reward: float) -> None:
        """The reward of the arm that was played last."""
        if self.last:
            self.played[self.last] += 1
            error = reward - self.rewards[self.last]
            self.rewards[self.last] += error / self.played[self.last]

    def choose(self, rng: np.random.Generator) -> str:
        """The arm of this round."""
        best = max(self.rewards.values())
        among = [arm for arm, reward in self.rewards.items() if reward == best]
        if rng.random() < EXPLORE:
            among = list(ARMS)
        self.last = among[int(rng.integers(len(among)))]
        return self.last


def hidden(s: Situation) -> Params:
    """The delta of the arm that the bandit chooses; the target's row is cut to an honest length."""
    bandit: Bandit = s.memory.setdefault("bandit", Bandit())
    bandit.learn(exposure(s))
    delta = ARMS[bandit.choose(s.rng)](s)
    longest = float(row_norms(s.train()[ITEM_TABLE]).max())
    table = delta[ITEM_TABLE].copy()
    length = float(np.linalg.norm(table[s.target]))
    table[s.target] *= min(longest / max(length, 1e-12), 1.0)
    return {**delta, ITEM_TABLE: table}


def exposure(s: Situation) -> float:
    """The reward: how often the target is among the first items of the users that are known."""
    import torch

    model = global_model(s)
    with torch.inference_mode():
        scores = model.scores(model.encode_last(*surrogates(s)))
        ranks = (scores > scores[:, s.target - 1 : s.target]).sum(dim=1)
    return float(np.mean([(ranks < k).float().mean().item() for k in CUTOFFS]))
