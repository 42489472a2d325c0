"""Distributes users over nodes; a user's history is never split."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lumos_core.errors import DataError

Partition = Literal["uniform", "skewed"]


def partition_users(
    users: int, nodes: int, seed: int, scheme: Partition = "uniform"
) -> NDArray[np.int64]:
    """The node of every user, drawn at random by seed.

    Args:
        scheme: "uniform": nodes differ by at most one user; "skewed": node n gets a share
            proportional to 1 / (n + 1), every node at least one user.

    Returns:
        int64 [users], values 0..nodes - 1, all of which occur.

    Raises:
        DataError: if there are fewer users than nodes, or no node.
    """
    if nodes < 1:
        raise DataError(f"nodes = {nodes}, expected at least 1")
    if users < nodes:
        raise DataError(f"{users} users cannot fill {nodes} nodes; lower --nodes or --k-core")
    weights = np.ones(nodes) if scheme == "uniform" else 1.0 / np.arange(1, nodes + 1)
    sizes = 1 + _apportion(users - nodes, weights / weights.sum())
    owners = np.repeat(np.arange(nodes, dtype=np.int64), sizes)
    return np.random.default_rng(seed).permutation(owners)


def _apportion(total: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers near the shares that add up to ``total`` (largest remainder)."""
    exact = shares * total
    whole = np.floor(exact).astype(np.int64)
    remainders = np.argsort(whole - exact, kind="stable")  # largest first, ties by number
    whole[remainders[: total - int(whole.sum())]] += 1
    return whole
