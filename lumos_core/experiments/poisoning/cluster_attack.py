"""ClusterAttack: items are drawn together into a few dense clusters, whose items then have nearly
the same score (Yu et al., AAAI 2023, arXiv 2212.05399).

Items are clustered by k-means on their embeddings; every malicious node sends the gradient of the
within-cluster distances

    L = Σ_c Σ_{v in c} ‖v − centroid_c‖² / k

for the item table. To look honest, the gradient of a row has a length drawn between the mean of the
honest rows and three standard deviations above it. The number of clusters k adapts: it grows if the
exponential mean of L rises for some rounds, and falls otherwise.

Differences. Nodes send deltas, so a row moves against its gradient, and it moves no further than
makes the aggregate's row reach the centroid. With the few rounds of the bench k adapts after
``PATIENCE`` rounds (paper: 100), and it starts with 8 instead of being tuned.
"""

import math
from dataclasses import dataclass

import numpy as np

from lumos_core.experiments.poisoning.updates import Situation
from lumos_core.federation.aggregation.clipping import row_norms
from lumos_core.learning.parameters import ITEM_TABLE, Params

START, SMALLEST, LARGEST = 8, 1, 50
PATIENCE = 3
DECAY = 0.9
"""Of the exponential mean."""
SPREAD = 3.0
"""Standard deviations above the mean that a row may be long."""


@dataclass
class Clusters:
    """The number of clusters, and what decides when it changes."""

    k: int = START
    mean: float | None = None
    balance: int = 0  # rounds in which the mean rose, minus those in which it fell

    def after(self, loss: float) -> None:
        """Adapt k to the loss of a round."""
        new = loss if self.mean is None else DECAY * self.mean + (1 - DECAY) * loss
        if self.mean is not None:
            self.balance += 1 if new > self.mean else -1
        self.mean = new
        if self.balance >= PATIENCE:
            self.k = min(round(self.k + math.sqrt(LARGEST - self.k)), LARGEST)
        elif self.balance <= -PATIENCE:
            self.k = max(round(self.k - math.sqrt(self.k - SMALLEST)), SMALLEST)
        else:
            return
        self.mean, self.balance = None, 0


def cluster_items(s: Situation) -> Params:
    """The delta as trained, except for the item table, whose rows move to their centroids."""
    from sklearn.cluster import KMeans

    own = s.train()
    table = s.params[ITEM_TABLE][1:].astype(np.float64)
    clusters: Clusters = s.memory.setdefault("clusters", Clusters())
    k = min(clusters.k, len(table))
    found = KMeans(k, init="random", n_init=1, random_state=s.seed).fit(table)
    away = table - found.cluster_centers_[found.labels_]
    clusters.after(float(np.square(away).sum() / k))
    distance = np.linalg.norm(away, axis=1, keepdims=True)
    honest = row_norms(own[ITEM_TABLE])[1:]
    honest = honest[honest > 0] if (honest > 0).any() else np.zeros(1)
    bound = honest.mean() + s.rng.random((len(table), 1)) * SPREAD * honest.std()
    length = np.minimum(bound, distance / s.weight)
    moved = np.zeros_like(own[ITEM_TABLE])
    moved[1:] = -away / np.maximum(distance, 1e-12) * length
    return {**own, ITEM_TABLE: moved}
