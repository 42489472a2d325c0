"""Whole federations of real nodes in this process: they learn, repeat, and can be resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.data.sample import bundled_sample
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.learning.title_start import initial_params
from lumos_core.runs.history import Event
from lumos_core.views.view import UserViews, ViewSource, no_views

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]


def _federate(
    config: RunConfig,
    catalog: Catalog,
    parts: list[Sequences],
    views: ViewSource = no_views,
    **options: Any,
) -> FederationResult:
    nodes = [Node(f"node-{i}", catalog, p, config, views) for i, p in enumerate(parts)]
    start = initial_params(config, catalog)
    return run_federation(config, InProcessTransport(nodes), catalog.fingerprint, start, **options)


def _equal(a: FederationResult, b: FederationResult) -> bool:
    return all(a.params[n].tobytes() == b.params[n].tobytes() for n in a.params)


def _curve(result: FederationResult) -> list[float]:
    return [e["ndcg@20"] for e in result.events if e.get("split") == "validation"]


@pytest.fixture
def parts(toy_users: Users) -> list[Sequences]:
    return [toy_users(n, seed=i, shortest=4) for i, n in enumerate((12, 1, 7))]


def test_three_nodes_learn_from_the_bundled_sample(tiny: Tiny, tmp_path: Path) -> None:
    prepare(bundled_sample(), tmp_path / "data", nodes=3, seed=0)
    catalog, parts = load_prepared(tmp_path / "data")
    config = tiny(
        dim=16, rounds=2, local_epochs=2, max_len=20, batch_size=64, dropout=0.0,
        learning_rate=0.005, min_nodes=3, min_replies=3,
    )  # fmt: skip
    result = _federate(config, catalog, parts)
    curve = _curve(result)
    assert result.outcome == "completed"
    assert len(curve) == 3
    assert max(curve[1:]) > 1.5 * curve[0]
    assert sum(map(len, parts)) == result.events[0]["users"] > 600


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_rounds_improve_on_the_start(
    tiny: Tiny, toy_catalog: Catalog, parts: list[Sequences], optimizer: str
) -> None:
    config = tiny(
        rounds=6, local_epochs=4, dropout=0.0, server_optimizer=optimizer, server_momentum=0.5,
        server_learning_rate=0.05 if optimizer == "adam" else 1.0, learning_rate=0.02,
    )  # fmt: skip
    curve = _curve(_federate(config, toy_catalog, parts))
    assert max(curve) > curve[0] + 0.1


def test_a_run_repeats_to_the_bit(tiny: Tiny, toy_catalog: Catalog, parts: list[Sequences]) -> None:
    config = tiny(dropout=0.3, delta_codec="int8", fraction=0.6, server_optimizer="adam")
    first, again = (_federate(config, toy_catalog, parts) for _ in range(2))
    assert _equal(first, again)
    assert _curve(first) == _curve(again)
    assert first.test == again.test
    other = _federate(config.replace(seed=1), toy_catalog, parts)
    assert _curve(other) != _curve(first)


def test_lumos_without_views_is_fedavg_plus_to_the_bit(
    tiny: Tiny, toy_catalog: Catalog, parts: list[Sequences]
) -> None:
    lumos, plus, fedavg, confedsrs = (
        _federate(tiny(method=m, dropout=0.3), toy_catalog, parts)
        for m in ("lumos", "fedavg-plus", "fedavg", "confedsrs")
    )
    assert _equal(lumos, plus)
    assert _curve(lumos) == _curve(plus)
    assert _curve(plus) != _curve(fedavg)
    assert _curve(confedsrs) != _curve(fedavg)

    def views(histories: Sequences) -> dict[int, UserViews]:
        """A future that goes on walking, a paraphrase one step aside, the way back."""
        return {
            u: UserViews(
                tuple((h[-1] + k) % 24 + 1 for k in range(2)),
                tuple((i + 1) % 24 + 1 for i in h.tolist()),
                tuple(reversed(h.tolist())),
            )
            for u, h in enumerate(histories)
        }

    given = _federate(tiny(method="lumos", dropout=0.3), toy_catalog, parts, views)
    assert _curve(given) != _curve(fedavg)
    assert not any("views_lacking" in e for e in given.events)
    assert all(e["contrastive"] > 0 for e in given.events if e["event"] == "round")


def test_one_node_is_a_federation_too(
    tiny: Tiny, toy_catalog: Catalog, parts: list[Sequences]
) -> None:
    result = _federate(tiny(min_nodes=1, min_replies=1), toy_catalog, parts[:1])
    assert result.outcome == "completed"
    assert result.events[0]["users"] == 12


def test_bytes_are_those_of_the_arrays(
    tiny: Tiny, toy_catalog: Catalog, parts: list[Sequences]
) -> None:
    config = tiny(rounds=1)
    size = sum(a.nbytes for a in initial_params(config, toy_catalog).values())
    for codec, up in (("float32", size), ("float16", size // 2)):
        result = _federate(config.replace(delta_codec=codec), toy_catalog, parts)
        (event,) = [e for e in result.events if e["event"] == "round"]
        assert (event["bytes_up"], event["bytes_down"]) == (3 * up, 3 * size)


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_stopped_run_of_real_nodes_is_resumed_to_the_bit(
    tiny: Tiny, toy_catalog: Catalog, parts: list[Sequences], tmp_path: Path, stop_at: int
) -> None:
    config = tiny(
        rounds=4, dropout=0.3, fraction=0.6, delta_codec="int8", server_optimizer="adam",
        server_learning_rate=0.05,
    )  # fmt: skip
    straight = _federate(config, toy_catalog, parts)

    def stop(event: Event) -> None:
        if event["event"] == "round" and event["round"] == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _federate(config, toy_catalog, parts, run_dir=tmp_path, on_event=stop)
    resumed = _federate(config, toy_catalog, parts, run_dir=tmp_path, resume=True)
    assert _equal(resumed, straight)
    assert _curve(resumed) == _curve(straight)
    assert resumed.test == straight.test
    assert resumed.best_round == straight.best_round
    assert np.isfinite(list(resumed.test.values())).all()
