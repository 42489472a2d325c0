"""The loop in the manner of FELLAS computes what a node for each user computes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.one_user_clients import client_names
from lumos_core.learning.title_start import initial_params
from lumos_core.wire.messages import Instruction
from lumos_core.wire.reply_checks import check_train


@pytest.fixture
def fellas_style(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("fellas_style")


@pytest.mark.parametrize("method", ["fedavg", "fedavg-plus"])
def test_deltas_and_hits_are_those_of_a_node_for_each_user(
    fellas_style: Any,
    tiny: Callable[..., RunConfig],
    toy_catalog: Catalog,
    toy_users: Callable[..., Sequences],
    method: str,
) -> None:
    config = tiny(method=method, dropout=0.3, local_epochs=3, title_weight=0.0)
    users, start = toy_users(12), initial_params(config, toy_catalog)
    names = client_names(len(users))
    nodes = [Node(n, toy_catalog, users.subset([u]), config) for u, n in enumerate(names)]
    loop = fellas_style.FellasStyle(len(toy_catalog), users, config, {})
    assert loop.nodes() == names
    orders = [Instruction(name, "train", 1, start, "validation") for name in names]
    hits = []
    for ours, theirs in zip(
        loop.exchange(orders, 1.0), InProcessTransport(nodes).exchange(orders, 1.0), strict=True
    ):
        check_train(ours.arrays or {}, ours.metrics, start, config, evaluated=True)
        for name, array in (theirs.arrays or {}).items():
            np.testing.assert_allclose(ours.arrays[name], array, atol=1e-6, err_msg=name)
        for cutoff in (5, 10, 20):
            for metric in (f"eval-hr@{cutoff}", f"eval-ndcg@{cutoff}"):
                assert ours.metrics[metric] == pytest.approx(theirs.metrics[metric])
        hits.append(ours.metrics["eval-hr@10"])
    assert 0 < sum(hits) < len(hits)
