"""Error feedback: everything is sent in the end, and nothing twice."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client_app.open_node import open_node
from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.node_cache import KEPT
from lumos_core.data.sequences import Sequences
from lumos_core.errors import DataError
from lumos_core.federation.error_feedback import FORGET_SECONDS, Residuals
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.round_loop import run_federation
from lumos_core.learning.parameters import ITEM_TABLE, Params
from lumos_core.learning.title_start import initial_params
from lumos_core.runs.history import Event
from lumos_core.wire.codecs import codec
from lumos_core.wire.row_choice import ROWS

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]


def _debt(value: float) -> Params:
    return {"a": np.full(3, value, dtype=np.float32)}


def _flat(delta: Params) -> np.ndarray:
    return np.concatenate([delta[n].ravel() for n in sorted(delta)]).astype(np.float64)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_round_takes_the_newest_debt_before_it(tmp_path: Path, on_disk: bool) -> None:
    kept = Residuals(tmp_path / "r" if on_disk else None)
    assert kept.before(1) is None
    kept.keep(1, _debt(1))
    kept.keep(4, _debt(4))  # the node was not sampled in rounds 2 and 3
    found = Residuals(tmp_path / "r").before(5) if on_disk else kept.before(5)
    assert found is not None
    assert found["a"].tolist() == [4, 4, 4]


def test_other_runs_are_forgotten_when_they_have_not_gone_on_for_long(tmp_path: Path) -> None:
    names = {"own": "0" * 16, "old": "1" * 16, "recent": "2" * 16, "no run": "models"}
    for name in names.values():
        Residuals(tmp_path / name).keep(1, _debt(1))
    for which, age in (("own", 2), ("old", 2), ("recent", 0.5), ("no run", 2)):
        then = time.time() - age * FORGET_SECONDS
        os.utime(tmp_path / names[which], (then, then))
    assert Residuals(tmp_path / names["own"]).before(2) is not None  # reading forgets nothing
    assert {p.name for p in tmp_path.iterdir()} == set(names.values())
    Residuals(tmp_path / names["own"]).keep(2, _debt(2))
    assert {p.name for p in tmp_path.iterdir()} == set(names.values()) - {names["old"]}
    assert Residuals(tmp_path / names["recent"]).before(2) is not None


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_repeated_round_starts_from_what_it_started_from(tmp_path: Path, on_disk: bool) -> None:
    kept = Residuals(tmp_path if on_disk else None)
    kept.keep(2, _debt(2))
    kept.keep(3, _debt(3))
    for _ in range(2):
        found = kept.before(3)
        assert found is not None
        assert found["a"][0] == 2, "not the debt that this very round left behind"
        kept.keep(3, _debt(33))
    assert kept.before(1) is None, "a run that begins again owes nothing"
    assert kept.before(9) is None, "and what came later is gone"


def test_disk_holds_two_rounds_at_most(tmp_path: Path) -> None:
    kept = Residuals(tmp_path)
    for round in range(1, 15):
        kept.before(round)
        kept.keep(round, _debt(round))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["13.safetensors", "14.safetensors"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    Residuals(tmp_path).keep(1, _debt(1))
    (tmp_path / "1.safetensors").write_bytes(b"xyz")
    with pytest.raises(DataError, match=r"1\.safetensors: found a damaged file"):
        Residuals(tmp_path).before(2)


# ---------------------------------------------------------------- in a node
def _node(config: RunConfig, catalog: Catalog, users: Sequences, state: Path | None) -> Node:
    return Node("a", catalog, users, config, state=state)


def _decoded(arrays: Params, config: RunConfig, like: Params) -> Params:
    return codec(config.delta_codec).decode(arrays, like, config.top_rows_share)


@pytest.mark.parametrize("codec", ["float16", "int8", "top-rows", "top-rows-int8"])
def test_what_was_sent_and_what_is_owed_are_the_delta(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, tmp_path: Path, codec: str
) -> None:
    config = tiny(delta_codec=codec, error_feedback=True, top_rows_share=0.2)
    users = toy_users(12, shortest=4)
    params = initial_params(config, toy_catalog)
    plain = config.replace(delta_codec="float32")
    exact, _ = _node(plain, toy_catalog, users, None).train(params, 1)
    node = _node(config, toy_catalog, users, tmp_path)
    sent = _decoded(node.train(params, 1)[0], config, params)
    owed = node._residuals.before(2)
    assert owed is not None
    assert _flat(owed).any()
    np.testing.assert_allclose(_flat(sent) + _flat(owed), _flat(exact), atol=1e-6)

    again, _ = _node(plain, toy_catalog, users, None).train(params, 2)
    second = _decoded(_node(config, toy_catalog, users, tmp_path).train(params, 2)[0],
                      config, params)  # fmt: skip
    left = _node(config, toy_catalog, users, tmp_path)._residuals.before(3)
    assert left is not None
    total = _flat(exact) + _flat(again)
    np.testing.assert_allclose(_flat(sent) + _flat(second) + _flat(left), total, atol=1e-5)


def test_rows_get_their_turn(tiny: Tiny, toy_catalog: Catalog, toy_users: Users) -> None:
    """With a tenth of the rows a round, feedback brings more rows forward than repetition does."""
    users = toy_users(12, shortest=4)
    seen: dict[bool, set[int]] = {}
    for feedback in (False, True):
        config = tiny(delta_codec="top-rows", top_rows_share=0.1, error_feedback=feedback)
        params = initial_params(config, toy_catalog)
        node = _node(config, toy_catalog, users, None)
        replies = [node.train(params, round)[0] for round in range(1, 9)]
        seen[feedback] = {int(r) for arrays in replies for r in arrays[ITEM_TABLE + ROWS]}
    assert len(seen[True]) > len(seen[False])


def test_a_failed_and_repeated_round_is_not_added_twice(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, tmp_path: Path
) -> None:
    config = tiny(delta_codec="int8", error_feedback=True)
    users = toy_users(12, shortest=4)
    params = initial_params(config, toy_catalog)

    def train(state: str, rounds: list[int]) -> Params:
        arrays: Params = {}
        for round in rounds:  # a new process every time
            arrays, _ = _node(config, toy_catalog, users, tmp_path / state).train(params, round)
        return arrays

    assert np.array_equal(_flat(train("a", [1, 2, 3])), _flat(train("b", [1, 2, 2, 3, 3, 3])))


def test_other_runs_have_debts_of_their_own(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, tmp_path: Path
) -> None:
    config = tiny(delta_codec="int8", error_feedback=True)
    users = toy_users(12, shortest=4)
    params = initial_params(config, toy_catalog)
    _node(config, toy_catalog, users, tmp_path).train(params, 1)
    for other, same in (
        ({"seed": 5}, False),
        ({"rounds": 50, "run_dir": "x"}, True),
        ({"min_nodes": 1, "min_replies": 1}, True),  # as when a node was removed
    ):
        node = _node(config.replace(**other), toy_catalog, users, tmp_path)
        assert (node._residuals.before(2) is not None) == same


def test_a_stopped_run_is_resumed_to_the_bit(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, tmp_path: Path
) -> None:
    config = tiny(
        rounds=4, dropout=0.3, fraction=0.6, delta_codec="top-rows-int8", error_feedback=True
    )
    parts = [toy_users(8, seed=s, shortest=4) for s in range(3)]

    def federate(states: Path, stop_at: int = 0, run_dir: Path | None = None) -> Params:
        nodes = [Node(f"n{i}", toy_catalog, users, config, state=states / str(i))
                 for i, users in enumerate(parts)]  # fmt: skip

        def stop(event: Event) -> None:
            if event["event"] == "round" and event["round"] == stop_at:
                raise KeyboardInterrupt

        return run_federation(
            config, InProcessTransport(nodes), toy_catalog.fingerprint,
            initial_params(config, toy_catalog), run_dir=run_dir, on_event=stop, resume=True,
        ).params  # fmt: skip

    straight = federate(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):  # after the nodes have sent, before the checkpoint
        federate(tmp_path / "states", stop_at=3, run_dir=tmp_path / "run")
    resumed = federate(tmp_path / "states", run_dir=tmp_path / "run")
    assert np.array_equal(_flat(resumed), _flat(straight))


def test_a_deployed_node_keeps_its_debts_in_its_state_folder(
    tiny: Tiny, toy_catalog: Catalog, tmp_path: Path
) -> None:
    lines = [f"u{u}\ti{(u * 3 + t) % 24 + 1}\t{t}" for u in range(4) for t in range(6)]
    toy_catalog.write(tmp_path / "catalog.tsv")
    text = "user_id\titem_id\ttimestamp\n" + "\n".join(lines) + "\n"
    (tmp_path / "interactions.tsv").write_text(text)
    config = tiny(delta_codec="int8", error_feedback=True, dp="distributed", weighting="uniform")
    node = open_node(config, NodeConfig(data=str(tmp_path), state=str(tmp_path / "mine")))
    node.train(initial_params(config, toy_catalog), 1)
    files = {p.relative_to(tmp_path / "mine").parts[0] for p in (tmp_path / "mine").rglob("*")}
    assert files == {"residuals", "noise.key", KEPT}
