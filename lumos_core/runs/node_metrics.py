"""Test metrics by node: whom the model of a run serves, and whom it serves badly.

They are made of sums that nodes send with every evaluation; no node is asked for more. The sum of a
node with a few users is about these users, and chance decides it: such nodes are not in here, and
sums over several nodes, as secure aggregation gives them, cannot be told apart.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lumos_core.learning.metrics import means, worst_tenth
from lumos_core.runs.history import Event

LEAST_USERS = 10
"""Nodes with fewer users are left out."""
SHOWN = 20
"""Nodes in the table of a report; the lowest, if there are more."""
BY_NODE = "by_node"
"""Key of an evaluation on the test targets: users, HR@20 and NDCG@20 by node."""
_METRICS = ("hr@20", "ndcg@20")


def by_node(evaluated: Iterable[tuple[Sequence[str], Mapping[str, float]]]) -> Event:
    """What an evaluation's event says about single nodes; nothing if that is fewer than two.

    Args:
        evaluated: for each reply the nodes that it is about and its sums.
    """
    found = {
        names[0]: {"users": int(sums["users"]), **{m: means(sums)[m] for m in _METRICS}}
        for names, sums in evaluated
        if len(names) == 1 and sums["users"] >= LEAST_USERS
    }
    return {BY_NODE: found} if len(found) > 1 else {}


def section(events: Iterable[Event]) -> tuple[list[str], list[list[str]]]:
    """The sentences and the table of a report; both are empty if the history says nothing of it."""
    told: list[dict[str, dict[str, float]]] = [e[BY_NODE] for e in events if BY_NODE in e]
    if not told:
        return [], []
    nodes = told[-1]
    rates = np.array([node["hr@20"] for node in nodes.values()])
    lowest = sorted(nodes, key=lambda name: (nodes[name]["hr@20"], name))[:SHOWN]
    sentences = [
        f"HR@20 of the {len(nodes)} nodes, each counting the same: {rates.mean():.4f}, standard "
        f"deviation {rates.std():.4f}, worst tenth {worst_tenth(rates):.4f}.",
        f"As nodes report them; nodes with fewer than {LEAST_USERS} users are left out, because "
        "their metrics would be about single users."
        + (f" The {SHOWN} lowest:" if len(nodes) > SHOWN else ""),
    ]
    rows = [
        [name, str(nodes[name]["users"]), *(f"{nodes[name][m]:.4f}" for m in _METRICS)]
        for name in lowest
    ]
    return sentences, [["test, by node", "users", *(m.upper() for m in _METRICS)], *rows]
