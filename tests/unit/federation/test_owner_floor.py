"""The owner's floor: each limit by itself, and what is checked again while the work is done."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumos_core.config import FloorKeys, NodeConfig, RunConfig
from lumos_core.errors import ConfigError
from lumos_core.federation import owner_floor
from lumos_core.federation.owner_floor import (
    EVERY,
    LIMITS,
    Asked,
    BelowFloorError,
    Floor,
    TrainingTooLongError,
    check,
    policy,
    time_limit,
)
from lumos_core.privacy import node_budget
from lumos_core.privacy.budget import epsilon
from lumos_core.privacy.node_budget import Account, AccountError, Spent, Training

USER = {"dp": "user", "batch_size": 4, "local_epochs": 1, "dp_noise_multiplier": 2.0}
SECURE = {"secure_aggregation": True, "min_nodes": 3, "min_replies": 3}


def asked(config: dict[str, Any], node: dict[str, Any], kind: str = "train", **facts: Any) -> Asked:
    facts = {"users": 10, "run": "a", **facts}
    return Asked(kind, RunConfig(**config), NodeConfig(data="d", **node), **facts)


def refused(message: Asked, counted: bool) -> list[str]:
    with pytest.raises(BelowFloorError) as error:
        check(message, counted)
    return list(error.value.sentences)


# ---------------------------------------------------------------- the run's configuration
RUN_CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "require-secure-aggregation": (
        {}, {"require_secure_aggregation": True}, "secure-aggregation = false; this node has "
        "require-secure-aggregation = true"
    ),
    "allowed-dp": (
        {}, {"allowed_dp": "user, distributed"}, "dp = none; this node has allowed-dp = user, dist"
    ),
    "min-noise-multiplier": (
        USER, {"min_noise_multiplier": 3.0},
        "dp-noise-multiplier = 2; this node has min-noise-multiplier = 3.0"
    ),
    "allowed-llms": ({"llm": "/etc"}, {}, "llm = '/etc'; this node has allowed-llms = \"\";"),
    "max-local-epochs": (
        {"local_epochs": 9}, {"max_local_epochs": 8},
        "local-epochs = 9; this node has max-local-epochs = 8; ask the server's operator for fewer"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("key", "case"), RUN_CASES.items(), ids=RUN_CASES.keys())
def test_a_run_beyond_a_limit_is_refused_by_name(key: str, case: Any) -> None:
    run, node, text = case
    for kind in EVERY:
        [sentence] = refused(asked(run, node, kind), counted=False)
        assert text in sentence
        assert "node.toml" in sentence, "what to do"
    check(asked(run, {}) if key != "allowed-llms" else asked({}, node), counted=False)


@pytest.mark.parametrize(
    ("run", "node"),
    [
        (SECURE, {"require_secure_aggregation": True}),
        (USER, {"allowed_dp": "user"}),
        (USER, {"min_noise_multiplier": 2.0}),
        ({"local_epochs": 8}, {"max_local_epochs": 8}),
        ({"llm": "/models/qwen"}, {"allowed_llms": "other, /models/qwen"}),
        ({"llm": "owner/model"}, {"llm": "/models/own"}),  # the node's own replaces the run's
        ({}, {"allowed_llms": "/models/qwen"}),  # the bundled one is always allowed
    ],
)
def test_what_is_at_the_limit_is_allowed(run, node) -> None:
    check(asked(run, node), counted=False)


@pytest.mark.parametrize("llm", ["/models/qwen/..", "/models", "models/qwen", "org/model"])
def test_a_model_is_allowed_as_it_is_spelled_and_in_no_other_way(llm: str) -> None:
    refused(asked({"llm": llm}, {"allowed_llms": "/models/qwen"}), counted=False)


@pytest.mark.parametrize("change", [{"dp_noise_multiplier": 0.0}, {"dp_noise_seed": 7}])
@pytest.mark.parametrize("node", [{"allowed_dp": "user"}, {"min_noise_multiplier": 0.1}])
def test_a_kind_of_dp_in_name_only_does_not_suffice(change, node) -> None:
    name, value = next(iter(change.items()))
    [sentence] = refused(asked({**USER, **change}, node), counted=False)
    assert f"{name.replace('_', '-')} = {value:g}" in sentence


def test_noise_that_many_nodes_claim_to_share_is_no_noise_of_this_one() -> None:
    run = {"dp": "distributed", "weighting": "uniform", "dp_noise_multiplier": 2.0}
    floor = {"min_noise_multiplier": 1.5}
    check(asked({**run, "min_replies": 1}, floor), counted=False)
    crowd = {**run, "min_nodes": 1600, "min_replies": 1600}
    [sentence] = refused(asked(crowd, floor), counted=False)
    assert "shared by min-replies = 1600 nodes, of which this one can be sure of 0.05" in sentence


def test_every_breach_is_told_to_the_owner_and_one_key_to_the_server() -> None:
    run = {**USER, "local_epochs": 9, "llm": "/etc"}
    with pytest.raises(BelowFloorError) as error:
        check(asked(run, {"max_local_epochs": 1, "min_noise_multiplier": 3.0}), counted=False)
    assert [s.split("this node has ")[1].split(" =")[0] for s in error.value.sentences] == [
        "min-noise-multiplier", "allowed-llms", "max-local-epochs",
    ]  # fmt: skip
    assert error.value.key == "min-noise-multiplier"


# ---------------------------------------------------------------- users, ε, the day
def spent(**changes: Any) -> Spent:
    return Spent().on(node_budget.today()).model_copy(update=changes)


def of_a_run(**changes: Any) -> Spent:
    run = Spent().run("a").model_copy(update=changes)
    return spent().with_run(run)


COUNTED_CASES: dict[str, tuple[dict[str, Any], Spent, str, str]] = {
    "min-users": ({"min_users": 11}, spent(), "train", "a reply that speaks for 10 users"),
    "max-rounds-a-day": (
        {"max_rounds_a_day": 3}, spent(trainings_today=3), "train", "training number 4 of today"
    ),
    "max-bytes-a-day": (
        {"max_bytes_a_day": 99}, spent(bytes_today=99), "evaluate", "beside the 99 of today"
    ),
    "max-training-seconds": (
        {"max_training_seconds": 5.0}, of_a_run(too_long=5.0), "train",
        "a training that took more than 5 seconds today",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("key", "case"), COUNTED_CASES.items(), ids=COUNTED_CASES.keys())
def test_work_beyond_a_limit_is_refused_by_name(key: str, case: Any) -> None:
    node, before, kind, text = case
    [sentence] = refused(asked({}, node, kind, spent=before), counted=True)
    limit = next(iter(node.values()))
    assert f"{text}" in sentence
    assert f"this node has {key} = {limit}; " in sentence
    check(asked({}, {}, kind, spent=before), counted=True)
    wider = {name: type(limit)(limit + 1) for name in node}
    if key != "min-users":
        check(asked({}, wider, kind, spent=before), counted=True)
    else:
        check(asked({}, node, kind, users=11, spent=before), counted=True)


def test_a_reply_as_large_as_the_last_is_refused_before_it_is_trained() -> None:
    before = of_a_run(reply_bytes=60).model_copy(update={"bytes_today": 50})
    [sentence] = refused(asked({}, {"max_bytes_a_day": 100}, spent=before), counted=True)
    assert "a reply of 60 bytes beside the 50 of today" in sentence
    check(asked({}, {"max_bytes_a_day": 110}, spent=before), counted=True)


TRAINING = Training.of(RunConfig(**USER), NodeConfig(data="d"), 10)


def after(trainings: int, run: str = "a") -> Spent:
    found = spent()
    for _ in range(trainings):
        found = found.after_training(run, TRAINING)
    return found


def of(trainings: int) -> float:
    return epsilon(TRAINING.noise, TRAINING.rate, trainings * TRAINING.steps, 1e-5)


@pytest.mark.parametrize("key", ["max_run_epsilon", "max_total_epsilon"])
def test_the_training_that_would_exceed_epsilon_is_refused(key: str) -> None:
    limit = {key: (of(3) + of(4)) / 2}
    check(asked(USER, limit, spent=after(2)), counted=True)
    [sentence] = refused(asked(USER, limit, spent=after(3)), counted=True)
    assert f"{of(4):.3g} (so far {of(3):.3g}, for a user of this node, δ = 1e-05)" in sentence
    assert f"this node has {key.replace('_', '-')} = {limit[key]}" in sentence


def test_epsilon_over_all_runs_counts_runs_that_alone_are_within_it() -> None:
    limit = (of(3) + of(4)) / 2
    other = after(3, run="another")
    check(asked(USER, {"max_run_epsilon": limit}, spent=other), counted=True)
    [sentence] = refused(asked(USER, {"max_total_epsilon": limit}, spent=other), counted=True)
    assert "ε of all runs" in sentence


def test_a_run_cannot_choose_delta() -> None:
    limit = {"max_run_epsilon": of(1) * 1.01}
    check(asked({**USER, "dp_delta": 0.9}, limit), counted=True)
    assert refused(asked({**USER, "dp_delta": 0.9}, {**limit, "epsilon_delta": 1e-9}), True)


@pytest.mark.parametrize("run", [{}, {"dp": "central", "weighting": "uniform"}])
def test_with_a_limit_of_epsilon_what_cannot_be_counted_is_refused(run) -> None:
    for key in ("max_run_epsilon", "max_total_epsilon"):
        [sentence] = refused(asked(run, {key: 1000.0}), counted=True)
        assert "of which this node cannot count ε" in sentence


def test_a_node_that_may_not_train_does_not_join_but_evaluates_what_it_has_trained() -> None:
    limit = {"max_total_epsilon": (of(3) + of(4)) / 2}
    for kind in ("describe", "prepare"):
        assert refused(asked(USER, limit, kind, run="new", spent=after(3)), True)
        check(asked(USER, limit, kind, spent=after(3)), counted=True)  # a restarted server asks
    check(asked(USER, limit, "evaluate", spent=after(3)), counted=True)


# ---------------------------------------------------------------- while the work is done
def floor(folder: Path, run: dict[str, Any], kind: str = "train", **node: Any) -> Floor:
    found = Floor(kind, RunConfig(**run), NodeConfig(data=str(folder), **node))
    found.check_run()
    found.check_work(10, "a")
    return found


def test_a_training_is_written_down_before_it_begins_and_counts_if_it_fails(tmp_path) -> None:
    one = floor(tmp_path, USER)
    with contextlib.suppress(ZeroDivisionError), one.training():
        assert Account(tmp_path / "state").read().trainings == 1
        raise ZeroDivisionError
    found = Account(tmp_path / "state").read()
    assert (found.trainings, found.trainings_today) == (1, 1)
    assert found.epsilon(1e-5) == pytest.approx(of(1))


def test_a_second_run_beyond_epsilon_is_refused_after_a_restart(tmp_path: Path) -> None:
    limit = {"max_total_epsilon": (of(3) + of(4)) / 2}
    for run in ("first", "first", "second"):
        one = Floor("train", RunConfig(**USER), NodeConfig(data=str(tmp_path), **limit))
        one.check_work(10, run)
        with one.training():
            pass
    with pytest.raises(BelowFloorError, match="ε of all runs"):
        Floor("train", RunConfig(**USER), NodeConfig(data=str(tmp_path), **limit)).check_work(
            10, "second"
        )


def test_of_two_messages_at_a_time_one_trains(tmp_path: Path) -> None:
    both = [floor(tmp_path, {}, max_rounds_a_day=1) for _ in range(2)]
    second = both[1].training()
    with both[0].training(), pytest.raises(BelowFloorError, match="max-rounds-a-day"), second:
        pytest.fail("trained")
    assert Account(tmp_path / "state").read().trainings == 1


def test_nothing_is_trained_that_cannot_be_written_down(tmp_path: Path) -> None:
    one = floor(tmp_path, USER)
    (tmp_path / "state").write_text("no folder")
    with pytest.raises(AccountError), one.training():
        pytest.fail("trained")


def test_a_training_that_takes_too_long_ends_and_is_not_begun_again_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(owner_floor.time, "monotonic", lambda: clock[0])
    node = NodeConfig(data=str(tmp_path), max_training_seconds=5.0)
    before_step = time_limit(node)
    clock[0] += 5.0
    before_step()
    clock[0] += 0.1
    too_long = pytest.raises(TrainingTooLongError, match=r"taken 5\.1 seconds.*-seconds = 5\.0")
    with too_long, floor(tmp_path, {}, max_training_seconds=5.0).training():
        before_step()
    with pytest.raises(BelowFloorError, match="took more than 5 seconds today"):
        floor(tmp_path, {}, max_training_seconds=5.0)
    floor(tmp_path, {}, max_training_seconds=6.0)
    monkeypatch.setattr(node_budget, "today", lambda: "2100-01-01")
    floor(tmp_path, {}, max_training_seconds=5.0)


def test_without_a_limit_no_training_is_too_long(monkeypatch) -> None:
    clock = iter([0.0, 1e9])
    monkeypatch.setattr(owner_floor.time, "monotonic", lambda: next(clock))
    time_limit(NodeConfig(data="d"))()


def test_the_reply_that_would_exceed_the_day_s_bytes_does_not_leave(tmp_path: Path) -> None:
    one = floor(tmp_path, {}, max_bytes_a_day=100)
    one.sends(60)
    with pytest.raises(BelowFloorError, match="a reply of 60 bytes beside the 60 of today"):
        one.sends(60)
    assert Account(tmp_path / "state").read().bytes_today == 60
    with pytest.raises(BelowFloorError):  # its size is known now: nothing is trained for nothing
        floor(tmp_path, {}, max_bytes_a_day=100)


# ---------------------------------------------------------------- table and keys
def test_every_key_of_the_floor_is_in_the_table_and_in_the_policy() -> None:
    beside = {"secagg-min-nodes", "epsilon-delta"}  # parts of other limits
    keys = {key for key in NodeConfig(data="d").to_flat() if key.replace("-", "_") in FLOOR}
    assert {limit.key for limit in LIMITS} == keys - beside
    told = policy(NodeConfig(data="d", max_local_epochs=4, allowed_llms="x/y", min_users=20))
    assert told["max-local-epochs"] == {"value": 4, "means": "at most 4 epochs in a round"}
    assert told["allowed-llms"]["means"] == "the language model must be smollm2 or x/y"
    assert "20 or more users" in str(told["min-users"]["means"])
    assert "0.0" not in "".join(str(row["means"]) for row in told.values())


FLOOR = FloorKeys.model_fields


@pytest.mark.parametrize("text", ["", " , ", "user,all"])
def test_kinds_of_dp_that_do_not_exist(text: str) -> None:
    with pytest.raises(ConfigError, match=r"allowed-dp = .*expected some of none, central"):
        NodeConfig.from_flat({"data": "d", "allowed-dp": text})


def test_lists_of_node_toml_are_texts_for_flower() -> None:
    lists = {"allowed-dp": ["user", "distributed"], "allowed-llms": ["a/b", "/c d"]}
    node = NodeConfig.from_flat({"data": "d", **lists})
    assert (node.dp_kinds, node.llms) == ({"user", "distributed"}, {"a/b", "/c d"})
    assert node.to_flat()["allowed-llms"] == "a/b,/c d"
    assert NodeConfig.from_flat(node.to_flat()) == node
    for wrong in (["/a,b"], [1]):
        with pytest.raises(ConfigError, match=r"'allowed-llms': found .*text without a comma"):
            NodeConfig.from_flat({"data": "d", "allowed-llms": wrong})


def test_a_node_without_a_floor_refuses_nothing_that_lumos_does_by_default() -> None:
    anything: list[Callable[[], dict[str, Any]]] = [dict, lambda: USER, lambda: SECURE]
    for run in anything:
        for kind in EVERY:
            check(asked(run(), {}, kind), counted=False)
            check(asked(run(), {}, kind), counted=True)
