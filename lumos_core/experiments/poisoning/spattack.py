"""Spattack: attacks on the item table that use that few nodes know an item.

Zhang et al., "Rethinking Byzantine Robustness in Federated Recommendation from Sparse Aggregation
Perspective", AAAI 2025, arXiv 2501.03301.

Where only few nodes move the row of an item, few malicious ones decide it. The paper has four
variants, by what the attacker knows and how many rows it may touch:

======================= =============================== =======================================
variant                 what is sent for an item        rows
======================= =============================== =======================================
O-D, ``spattack-o-d``   minus the sum of all honest     all (dense)
                        gradients, shared among the
                        malicious nodes: the sum is 0
O-S, ``spattack-o-s``   the same                        as many as an honest node touches,
                                                        drawn by popularity (sparse)
L-D, ``spattack-l-d``   one random vector from a normal all
                        distribution, the same for all
                        malicious nodes and rounds
L-S, ``spattack-l-s``   the same                        as for O-S
======================= =============================== =======================================

Differences. The attacker with full knowledge (O) is given the honest gradients in the paper; here
no node sees another's delta, so it estimates them by training on the histories that it knows. A
random row (L) is as long as a typical honest row divided by the attackers' share of the aggregate;
in the paper it has unit variance whatever the gradients. The paper's model is matrix factorisation,
whose only shared parameters are the item table; here the encoder's delta is that of the training.
"""

import numpy as np

from lumos_core.experiments.poisoning.knowledge import interaction_counts
from lumos_core.experiments.poisoning.updates import Situation
from lumos_core.federation.aggregation.clipping import row_norms, typical_row
from lumos_core.learning.parameters import ITEM_TABLE, Params


def opposite_dense(s: Situation) -> Params:
    """Spattack-O-D: no item moves in the aggregate."""
    return _opposite(s, np.ones(s.shape.num_items + 1, dtype=bool))


def opposite_sparse(s: Situation) -> Params:
    """Spattack-O-S: the items that the node touches do not move in the aggregate."""
    return _opposite(s, _touched(s))


def same_dense(s: Situation) -> Params:
    """Spattack-L-D: every item moves in a random direction, always the same one."""
    return _same(s, np.ones(s.shape.num_items + 1, dtype=bool))


def same_sparse(s: Situation) -> Params:
    """Spattack-L-S: so do the items that the node touches."""
    return _same(s, _touched(s))


def _opposite(s: Situation, rows: np.ndarray) -> Params:
    own = s.train()
    honest = own[ITEM_TABLE] * np.float32((1.0 - s.weight) / s.weight)
    return {**own, ITEM_TABLE: np.where(rows[:, None], -honest, 0.0).astype(np.float32)}


def _same(s: Situation, rows: np.ndarray) -> Params:
    own = s.train()
    rng = np.random.default_rng([s.seed, 5])  # all malicious nodes draw the same vectors
    table = rng.normal(size=own[ITEM_TABLE].shape)
    length = typical_row(row_norms(own[ITEM_TABLE])) / s.weight
    table *= length / np.linalg.norm(table, axis=1, keepdims=True)
    rows[0] = False
    return {**own, ITEM_TABLE: np.where(rows[:, None], table, 0.0).astype(np.float32)}


def _touched(s: Situation) -> np.ndarray:
    """The rows that a node may touch: bool [N + 1]; drawn once for each node."""
    if "touched" not in s.memory:
        items = s.shape.num_items
        counts = interaction_counts(s.knowledge.histories, items).astype(np.float64)
        met = int((counts > 0).sum())
        chance = counts / counts.sum() if met else np.full(items, 1.0 / items)
        like_a_node = s.knowledge.histories[: s.users]
        number = len(np.unique(np.concatenate(like_a_node))) if like_a_node else items // 10
        rows = np.zeros(items + 1, dtype=bool)
        drawn = s.rng.choice(items, size=min(number, met or items), replace=False, p=chance)
        rows[1 + drawn] = True
        s.memory["touched"] = rows
    found: np.ndarray = s.memory["touched"]
    return found.copy()
