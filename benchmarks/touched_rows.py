"""Do a delta's item rows reveal which items its node has? Norm against distance from the drift.

    python benchmarks/touched_rows.py DATA [--nodes 19] [--rounds 2] [-c KEY=VALUE ...]

Distributes the users of a prepared folder over nodes, runs rounds of plain training and prints, for
every round, the AUC of both measures, the ratio of row norms, and the result of `touched_rows`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from lumos_core.cli.options import with_overrides
from lumos_core.config import RunConfig
from lumos_core.data import Sequences
from lumos_core.data.partition import partition_users
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.federation import aggregation, server_optimizer
from lumos_core.federation.aggregation.clipping import row_norms
from lumos_core.federation.aggregation.sparse import touched_rows
from lumos_core.federation.node import Node
from lumos_core.learning.parameters import ITEM_TABLE
from lumos_core.learning.title_start import initial_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nodes", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-c", dest="settings", action="append", metavar="KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = with_overrides(RunConfig(method="fedavg"), options.settings)
    catalog, parts = load_prepared(options.data)
    users = Sequences.concat(parts)
    owners = partition_users(len(users), options.nodes, config.seed)
    nodes = [
        Node(f"node-{n}", catalog, users.subset(np.flatnonzero(owners == n)), config)
        for n in range(options.nodes)
    ]
    met = [np.isin(np.arange(1, len(catalog) + 1), node.split.train().items) for node in nodes]
    params, state = initial_params(config, catalog), {}
    print("round  AUC of norm  AUC of distance  norm unmet/met  recall  false alarms")
    for number in range(1, options.rounds + 1):
        deltas = [node.train(params, number)[0] for node in nodes]
        facts = np.array([_facts(d[ITEM_TABLE], m) for d, m in zip(deltas, met, strict=True)])
        norm, distance, ratio, recall, alarms = facts.mean(axis=0)
        print(
            f"{number:5}  {norm:11.3f}  {distance:15.3f}  {ratio:14.2f}  {recall:6.2f}"
            f"  {alarms:12.2f}"
        )
        weights = np.full(len(nodes), 1 / len(nodes))
        delta = aggregation.mean(deltas, weights)
        params, state = server_optimizer.step(params, delta, state, config)


def _facts(table: np.ndarray, met: np.ndarray) -> tuple[float, float, float, float, float]:
    norms = row_norms(table)[1:]
    distance = row_norms(table - np.median(table[1:], axis=0))[1:]
    found = touched_rows(table)[1:]
    return (
        roc_auc_score(met, norms),
        roc_auc_score(met, distance),
        float(np.median(norms[~met]) / np.median(norms[met])),
        float(found[met].mean()),
        float(found[~met].mean()),
    )


if __name__ == "__main__":
    main()
