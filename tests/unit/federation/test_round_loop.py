"""The round loop under replies that are late, missing, doubled, foreign, broken or lies."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation_fakes import CATALOG, Distort, FakeNode, FakeTransport, only, start
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumos_core.config import RunConfig
from lumos_core.errors import FederationError
from lumos_core.federation import evaluations, membership
from lumos_core.federation.aggregation import RULES
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.learning.parameters import Params
from lumos_core.runs.checkpoint import BEST, LATEST, load_checkpoint
from lumos_core.runs.history import HISTORY, Event, read_history
from lumos_core.runs.node_metrics import BY_NODE
from lumos_core.runs.status import status_of
from lumos_core.wire import versions
from lumos_core.wire.messages import Instruction, Reply
from lumos_core.wire.versions import PROTOCOL, Versions

Tiny = Callable[..., RunConfig]
NAMES = ("ann", "bob", "cy", "dee")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "POLL_SECONDS", 0.01)


@pytest.fixture
def config(tiny: Tiny) -> Callable[..., RunConfig]:
    def make(**changes: Any) -> RunConfig:
        quick = {"dim": 4, "round_timeout": 0.05, "start_timeout": 0.05, "max_failed_rounds": 0}
        return tiny(**{**quick, **changes})

    return make


def _transport(
    config: RunConfig, distort: Distort | None = None, names: Sequence[str] = NAMES
) -> FakeTransport:
    return FakeTransport([FakeNode(n, config, users=3 + i) for i, n in enumerate(names)], distort)


def _run(config: RunConfig, transport: FakeTransport, **options: Any) -> FederationResult:
    return run_federation(config, transport, CATALOG, start(), **options)


def _equal(a: Params, b: Params) -> bool:
    return list(a) == list(b) and all(a[n].tobytes() == b[n].tobytes() for n in a)


def _of(result: FederationResult, kind: str) -> list[Event]:
    return [e for e in result.events if e["event"] == kind]


# ---------------------------------------------------------------- a good run
def test_rounds_evaluations_and_checkpoints(config: Tiny, tmp_path: Path) -> None:
    cfg = config(rounds=4)
    seen: list[Event] = []
    result = _run(cfg, _transport(cfg), run_dir=tmp_path, on_event=seen.append)
    assert (result.outcome, result.reason, result.rounds) == ("completed", "", 4)
    assert seen == result.events == read_history(tmp_path / HISTORY)
    order = [(e["event"], e["round"], e.get("split")) for e in seen]
    assert order == [
        ("evaluation", 0, "validation"), ("round", 1, None),
        ("evaluation", 1, "validation"), ("round", 2, None),
        ("evaluation", 2, "validation"), ("round", 3, None),
        ("evaluation", 3, "validation"), ("round", 4, None),
        ("evaluation", 4, "validation"), ("evaluation", result.best_round, "test"),
    ]  # fmt: skip
    scores = [e["ndcg@20"] for e in seen if e.get("split") == "validation"]
    assert result.best_round == int(np.argmax(scores))
    assert result.validation["ndcg@20"] == max(scores)
    assert set(result.validation) == set(result.test)
    latest, best = load_checkpoint(tmp_path / LATEST), load_checkpoint(tmp_path / BEST)
    assert latest.progress.round == 4
    assert latest.progress.catalog == CATALOG
    assert RunConfig.from_flat(latest.progress.config) == cfg
    assert best.progress.best_round == result.best_round
    assert all(np.array_equal(best.params[n], a) for n, a in result.params.items())


def test_what_a_round_says(config: Tiny) -> None:
    cfg = config(rounds=1)
    (event,) = _of(_run(cfg, _transport(cfg)), "round")
    assert event["users"] == 3 + 4 + 5 + 6
    assert event["examples"] == 5 * 18
    assert event["loss"] == pytest.approx(9 / 5)
    assert event["contrastive"] is None
    assert (event["nodes_ok"], event["failed"]) == (4, [])
    assert (event["bytes_up"], event["bytes_down"]) == (4 * 7, 4 * 11)
    assert event["seconds"] >= 0


def test_one_round_is_the_weighted_mean_of_the_nodes(config: Tiny, tmp_path: Path) -> None:
    for weighting, weights in (
        ("users", [3, 4, 5, 6]), ("examples", [15, 20, 25, 30]), ("uniform", [1, 1, 1, 1])
    ):  # fmt: skip
        cfg = config(
            rounds=1, weighting=weighting, aggregation="mean", clip="none", max_weight_ratio=10.0
        )
        folder = tmp_path / weighting
        transport = _transport(cfg)
        _run(cfg, transport, run_dir=folder)
        deltas = [
            transport.known[n].answer(Instruction(n, "train", 1, start())).arrays for n in NAMES
        ]
        found = load_checkpoint(folder / LATEST).params
        for name, array in start().items():
            mean = sum(w * d[name].astype("f8") for w, d in zip(weights, deltas, strict=True))
            np.testing.assert_allclose(found[name], array + mean / sum(weights), atol=1e-6)


@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
@pytest.mark.parametrize("aggregation", RULES)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_every_combination_completes(
    config: Tiny, codec: str, aggregation: str, optimizer: str
) -> None:
    cfg = config(rounds=2, delta_codec=codec, aggregation=aggregation, server_optimizer=optimizer)
    result = _run(cfg, _transport(cfg, names=[*NAMES, "eve"]))
    assert result.outcome == "completed"
    assert all(np.isfinite(a).all() for a in result.params.values())


def test_the_test_of_a_run_says_how_nodes_differ(config: Tiny) -> None:
    """The first has 9 users: too few to be told apart."""
    cfg = config(rounds=1)
    nodes = [FakeNode(n, cfg, users=9 + i) for i, n in enumerate(NAMES)]
    *validations, test = _of(_run(cfg, FakeTransport(nodes)), "evaluation")
    users = {name: found["users"] for name, found in test[BY_NODE].items()}
    assert users == {name: 9 + i for i, name in enumerate(NAMES) if i}
    assert all(found["hr@20"] == pytest.approx(test["hr@20"]) for found in test[BY_NODE].values())
    assert not any(BY_NODE in event for event in validations)


def test_the_history_counts_the_clients_of_a_large_sum(
    config: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not so their names, in every evaluation."""
    cfg = config(rounds=1)

    def summed(instruction: Instruction, reply: Reply) -> Sequence[Reply]:
        if instruction.kind != "evaluate":
            return [reply]
        return [replace(reply, sum_of=NAMES)] if instruction.node == NAMES[0] else []

    *_, test = _of(_run(cfg, _transport(cfg, summed)), "evaluation")
    assert test["nodes"] == list(NAMES)
    assert "nodes_unnamed" not in test
    monkeypatch.setattr(evaluations, "MOST_NAMED", 3)
    result = _run(cfg, _transport(cfg, summed))
    first, *_, test = _of(result, "evaluation")
    assert (test["nodes"], test["nodes_unnamed"]) == ([], 4)
    assert first["nodes"] == list(NAMES), "they answered one by one"


def test_nodes_that_do_not_train_evaluate(config: Tiny) -> None:
    cfg = config(rounds=3, fraction=0.5)
    transport = _transport(cfg)
    result = _run(cfg, transport)
    for event in _of(result, "evaluation"):
        assert event["users"] == 18, "the metrics are everybody's, whoever trains"
    assert [len(nodes) for _, nodes in transport.trained()] == [2, 2, 2]


def test_evaluate_every(config: Tiny) -> None:
    cfg = config(rounds=5, evaluate_every=2)
    transport = _transport(cfg)
    result = _run(cfg, transport)
    rounds = [e["round"] for e in _of(result, "evaluation") if e["split"] == "validation"]
    assert rounds == [0, 2, 4, 5], "every second one, and the last in any case"


# ---------------------------------------------------------------- sampling, order
def test_sampling_is_determined_by_the_seed(config: Tiny) -> None:
    def sampled(seed: int) -> list[tuple[int, list[str]]]:
        cfg = config(rounds=12, fraction=0.5, seed=seed)
        transport = _transport(cfg)
        _run(cfg, transport)
        return transport.trained()

    first = sampled(1)
    assert first == sampled(1)
    assert first != sampled(2)
    assert all(len(set(nodes)) == 2 for _, nodes in first)
    assert {n for _, nodes in first for n in nodes} == set(NAMES), "everybody gets a turn"


@pytest.mark.parametrize(
    ("fraction", "nodes", "expected"), [(0.07, 100, 7), (0.5, 5, 3), (0.01, 9, 2), (1.0, 5, 5)]
)
def test_sample_sizes(config: Tiny, fraction: float, nodes: int, expected: int) -> None:
    """Rounded up, not below min-replies; 0.07 · 100 is 7, whatever floats say."""
    cfg = config(rounds=1, fraction=fraction)
    transport = _transport(cfg, names=[f"n{i}" for i in range(nodes)])
    _run(cfg, transport)
    assert [len(names) for _, names in transport.trained()] == [expected]


@pytest.mark.parametrize("aggregation", ["auto", "mean", "multi-krum"])
def test_the_order_of_replies_and_nodes_does_not_matter(config: Tiny, aggregation: str) -> None:
    cfg = config(
        rounds=4, fraction=0.8, aggregation=aggregation, server_optimizer="adam", min_replies=2
    )
    names = [*NAMES, "eve", "fay", "gus"]
    straight = _run(cfg, once := _transport(cfg, names=names))

    class Shuffled(FakeTransport):
        def nodes(self) -> list[str]:
            return self._mixed(super().nodes() * 2)  # named twice, too

        def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
            return self._mixed(super().exchange(instructions, deadline))

        def _mixed(self, things: list[Any]) -> list[Any]:
            return [things[i] for i in rng.permutation(len(things))]

    for seed in range(3):
        rng = np.random.default_rng(seed)
        mixed = Shuffled(list(_transport(cfg, names=names).known.values()))
        result = _run(cfg, mixed)
        assert _equal(mixed.last_model(), once.last_model())
        assert _equal(result.params, straight.params)
        assert result.test == straight.test
        assert result.best_round == straight.best_round


# ---------------------------------------------------------------- replies that are not good
def _broken(reply: Reply, **changes: Any) -> list[Reply]:
    return [replace(reply, **changes)]


def _arrays(reply: Reply, **changes: Any) -> list[Reply]:
    assert reply.arrays is not None
    return [replace(reply, arrays={**reply.arrays, **changes})]


BAD_TRAIN: dict[str, Callable[[Reply], Sequence[Reply]]] = {
    "no reply": lambda r: [],
    "an error": lambda r: _broken(r, error="out-of-memory"),
    "an error with a delta": lambda r: _broken(r, error=""),
    "no arrays": lambda r: _broken(r, arrays=None),
    "empty arrays": lambda r: _broken(r, arrays={}),
    "NaN": lambda r: _arrays(r, **{"a.bias": np.full(4, np.nan, "f4")}),
    "infinity": lambda r: _arrays(r, **{"a.bias": np.full(4, np.inf, "f4")}),
    "another shape": lambda r: _arrays(r, **{"a.bias": np.zeros(5, "f4")}),
    "float64": lambda r: _arrays(r, **{"a.bias": np.zeros(4)}),
    "an array too many": lambda r: _arrays(r, more=np.zeros(4, "f4")),
    "absurd norm": lambda r: _arrays(r, **{"a.bias": np.full(4, 1e30, "f4")}),
    "not an array": lambda r: _arrays(r, **{"a.bias": [0.0] * 4}),
    "no metrics": lambda r: _broken(r, metrics={}),
    "a metric too many": lambda r: _broken(r, metrics={**r.metrics, "age": 3}),
    "NaN metric": lambda r: _broken(r, metrics={**r.metrics, "loss": float("nan")}),
    "nobody": lambda r: _broken(r, metrics={**r.metrics, "users": 0}),
    "minus users": lambda r: _broken(r, metrics={**r.metrics, "users": -5}),
    "too many hits": lambda r: _broken(r, metrics={**r.metrics, "eval-hr@20": 1e6}),
    "a huge integer": lambda r: _broken(r, metrics={**r.metrics, "users": 10**5000}),
    "another kind": lambda r: _broken(r, kind="evaluate"),
    "an unknown kind": lambda r: _broken(r, kind="train\n"),
    "a stranger's name": lambda r: _broken(r, node="mallory"),
    "no name": lambda r: _broken(r, node=""),
}


@pytest.mark.parametrize("case", BAD_TRAIN)
def test_a_bad_reply_is_left_out_and_the_round_goes_on(
    config: Tiny, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    """The result is that of a run in which the node keeps silent, to the last bit."""
    cfg = config(rounds=2)
    silent = _run(cfg, quiet := _transport(cfg, only("ann", "train", lambda r: [])))
    caplog.clear()
    result = _run(cfg, spoilt := _transport(cfg, only("ann", "train", BAD_TRAIN[case])))
    assert result.outcome == "completed"
    assert _equal(spoilt.last_model(), quiet.last_model())
    assert result.test == silent.test
    for event in _of(result, "round"):
        assert event["nodes_ok"] == 3
        assert [f["node"] for f in event["failed"]] == ["ann"]
        assert event["failed"][0]["reason"]
        assert "\n" not in event["failed"][0]["reason"]
    named = [r for r in caplog.records if "node ann: " in r.getMessage()]
    assert len(named) == 2
    assert all(r.levelno >= logging.WARNING for r in named)


def test_the_reason_is_told(config: Tiny) -> None:
    cfg = config(rounds=1)
    for case, reason in (
        ("NaN", "delta 'a.bias' holds NaN"),
        ("another shape", "delta 'a.bias' has shape (5,), expected (4,)"),
        ("absurd norm", "max-delta-norm"),
        ("no reply", "no reply before the deadline"),
        ("an error", "out-of-memory"),
    ):
        result = _run(cfg, _transport(cfg, only("ann", "train", BAD_TRAIN[case])))
        assert reason in _of(result, "round")[0]["failed"][0]["reason"]


def test_the_first_of_several_answers_counts(config: Tiny) -> None:
    """A node cannot take back what it said, nor vote twice."""
    cfg = config(rounds=2)
    _run(cfg, once := _transport(cfg))

    def afterthought(instruction: Instruction, reply: Reply) -> list[Reply]:
        more = {n: a * np.float32(3) for n, a in (reply.arrays or {}).items()}
        return [reply, replace(reply, arrays=more), replace(reply, error="changed-my-mind")]

    result = _run(cfg, twice := _transport(cfg, afterthought))
    assert _equal(twice.last_model(), once.last_model())
    assert [e["nodes_ok"] for e in _of(result, "round")] == [4, 4]


def test_doubled_replies_count_once(config: Tiny) -> None:
    cfg = config(rounds=2)
    straight = _run(cfg, once := _transport(cfg))
    doubled = _run(cfg, thrice := _transport(cfg, lambda i, r: [r, r, r]))
    assert _equal(thrice.last_model(), once.last_model())
    assert doubled.test == straight.test


def test_replies_of_nodes_that_were_not_asked_are_dropped(config: Tiny) -> None:
    cfg = config(rounds=1, fraction=0.5)
    _run(cfg, once := _transport(cfg))
    ((_, sampled),) = once.trained()
    idle = [n for n in NAMES if n not in sampled]
    assert len(idle) == 2

    def uninvited(instruction: Instruction, reply: Reply) -> list[Reply]:
        if instruction.kind != "train":
            return [reply]
        others = [replace(reply, node=n) for n in (*idle, "mallory", "")]
        return [*others, reply, *others]

    _run(cfg, crowd := _transport(cfg, uninvited))
    assert _equal(crowd.last_model(), once.last_model())


def test_a_node_asked_to_evaluate_cannot_send_a_delta(config: Tiny) -> None:
    cfg = config(rounds=1, fraction=0.5)
    _run(cfg, once := _transport(cfg))
    ((_, sampled),) = once.trained()
    idle = next(n for n in NAMES if n not in sampled)

    def eager(instruction: Instruction, reply: Reply) -> list[Reply]:
        if (instruction.node, instruction.kind) != (idle, "evaluate"):
            return [reply]
        train = Instruction(idle, "train", 1, instruction.params, instruction.evaluate)
        return [once.known[idle].answer(train), reply]

    result = _run(cfg, transport := _transport(cfg, eager))
    assert _equal(transport.last_model(), once.last_model())
    assert [e["users"] for e in _of(result, "evaluation")] == [18] * 3


garbage = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.just(10**400), st.lists(st.integers(), max_size=2),
)  # fmt: skip
garbage_arrays = st.dictionaries(
    st.sampled_from(["items.weight", "blocks.0.w", "a.bias", "a.bias:scale", "x"]),
    st.one_of(
        garbage,
        st.sampled_from([(), (4,), (4, 4), (7, 4), (0,)]).flatmap(
            lambda shape: st.sampled_from(["f4", "f8", "f2", "i1", "O", "U3", "?"]).map(
                lambda dtype: np.ones(shape).astype(dtype)
            )
        ),
    ),
)
garbage_metrics = st.dictionaries(
    st.one_of(
        st.sampled_from(["users", "examples", "loss", "eval-users", "eval-hr@20", "seconds"]),
        st.text(max_size=3),
    ),
    garbage,
)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    arrays=st.one_of(st.none(), garbage_arrays),
    metrics=garbage_metrics,
    info=st.dictionaries(st.text(max_size=5), st.text(max_size=5)),
    error=st.one_of(st.none(), st.text(max_size=200)),
    overlay=st.booleans(),
    codec=st.sampled_from(["float32", "int8"]),
)
def test_no_reply_whatever_is_in_it_stops_a_run_or_harms_the_model(
    config: Tiny, arrays: Any, metrics: Any, info: Any, error: str | None, overlay: bool, codec: str
) -> None:
    """Garbage alone, and garbage laid over an honest reply."""
    cfg = config(rounds=1, delta_codec=codec)

    def spoil(instruction: Instruction, reply: Reply) -> list[Reply]:
        if instruction.node != "ann" or instruction.kind == "describe":
            return [reply]
        if overlay:
            whole = {**(reply.arrays or {}), **(arrays or {})}
            both = {**reply.metrics, **metrics}
            return [replace(reply, arrays=whole, metrics=both, info=info, error=error)]
        return [replace(reply, arrays=arrays, metrics=metrics, info=info, error=error)]

    result = _run(cfg, spoilt := _transport(cfg, spoil))
    assert result.outcome == "completed"
    model = spoilt.last_model()
    if _of(result, "round")[0]["nodes_ok"] == 4:  # what was laid over the reply did not spoil it
        assert overlay
        assert all(np.isfinite(a).all() for a in model.values())
        limit = 0.1 * cfg.max_delta_norm  # more than any weight of one node here
        assert max(float(np.abs(a).max()) for a in model.values()) < limit
    else:
        _run(
            cfg, quiet := _transport(cfg, lambda i, r: [] if i.node == "ann" and i.params else [r])
        )
        assert _equal(model, quiet.last_model())


# ---------------------------------------------------------------- evaluations that are not good
@pytest.mark.parametrize(
    "change",
    [
        lambda r: [],
        lambda r: _broken(r, error="no-data"),
        lambda r: _broken(r, metrics={}),
        lambda r: _broken(r, metrics={**r.metrics, "eval-ndcg@20": float("nan")}),
        lambda r: _broken(r, metrics={**r.metrics, "eval-ndcg@20": 1e9}),
        lambda r: _broken(r, metrics={**r.metrics, "users": 1}),
        lambda r: _broken(r, metrics={**r.metrics, "eval-users": 0.5}),
    ],
    ids=["missing", "error", "empty", "NaN", "too good", "not asked for", "half a user"],
)
def test_a_bad_evaluation_is_left_out(
    config: Tiny, change: Callable[[Reply], Sequence[Reply]]
) -> None:
    cfg = config(rounds=1)
    result = _run(cfg, _transport(cfg, only("dee", "evaluate", change)))
    last = [e for e in _of(result, "evaluation") if e["round"] == 1 and e["split"] == "validation"]
    assert [e["users"] for e in last] == [12], "without dee's six"
    assert _of(result, "evaluation")[-1]["users"] == 12
    assert result.outcome == "completed"


def test_a_bad_evaluation_is_named_with_the_reason(config: Tiny) -> None:
    def lie(reply: Reply) -> list[Reply]:
        return _broken(reply, metrics={**reply.metrics, "eval-ndcg@20": 1e9})

    cfg = config(rounds=1)
    result = _run(cfg, _transport(cfg, only("dee", "evaluate", lie)))
    named = [f for e in _of(result, "evaluation") for f in e.get("failed", ())]
    assert {f["node"] for f in named} == {"dee"}
    assert all("eval-ndcg@20" in f["reason"] for f in named)


def test_no_evaluation_at_all_is_no_success(config: Tiny, tmp_path: Path) -> None:
    """Nothing is known about the model then; the last one is handed back, not the first."""
    cfg = config(rounds=2)

    def spoil(instruction: Instruction, reply: Reply) -> list[Reply]:
        nothing = {k: 0 for k in reply.metrics if k.startswith("eval-")}
        return [replace(reply, metrics={**reply.metrics, **nothing})]

    result = _run(cfg, _transport(cfg, spoil), run_dir=tmp_path)
    assert result.outcome == "failed"
    assert "final evaluation" in result.reason
    latest = load_checkpoint(tmp_path / LATEST).params
    assert all(np.array_equal(latest[n], a) for n, a in result.params.items())
    assert not _equal(result.params, start())


# ---------------------------------------------------------------- liars
def test_a_liar_about_its_users_gets_a_bounded_weight(config: Tiny, tmp_path: Path) -> None:
    """A claim of 10^9 users counts as `max-weight-ratio` median nodes at most."""

    def lie(reply: Reply) -> list[Reply]:
        assert reply.arrays is not None
        shifted = {n: np.full_like(a, 5.0) for n, a in reply.arrays.items()}
        return [replace(reply, arrays=shifted, metrics={**reply.metrics, "users": 10**9})]

    def moved(**changes: Any) -> float:
        cfg = config(rounds=1, max_delta_norm=1e6, **changes)
        folder = tmp_path / repr(sorted(changes.items()))
        _run(cfg, _transport(cfg, only("ann", "train", lie)), run_dir=folder)
        after = load_checkpoint(folder / LATEST).params
        return max(float(np.abs(after[n] - a).max()) for n, a in start().items())

    honest = len(NAMES) - 1
    ratio = RunConfig().max_weight_ratio
    share = ratio / (ratio + honest)
    assert moved(weighting="users") < 5.0 * share + 0.7
    assert moved(weighting="uniform") < 2.0
    assert moved(aggregation="median") < 1.0
    assert moved(aggregation="trimmed-mean") < 1.0
    cfg = config(rounds=1, max_delta_norm=20.0)
    result = _run(cfg, _transport(cfg, only("ann", "train", lie)))
    assert "max-delta-norm" in _of(result, "round")[0]["failed"][0]["reason"]


def test_of_two_nodes_neither_drowns_the_other(config: Tiny) -> None:
    cfg = config(
        rounds=1, min_nodes=2, min_replies=2, server_optimizer="sgd", clip="none",
        max_weight_ratio=2.0,
    )  # fmt: skip
    boast = only("ann", "train", lambda r: [replace(r, metrics={**r.metrics, "users": 10**6})])
    transport = _transport(cfg, boast, NAMES[:2])
    _run(cfg, transport)
    order = next(i for i in transport.asked if i.kind == "train")
    sent = [transport.known[n].answer(replace(order, node=n)).arrays for n in NAMES[:2]]
    expected = {k: start()[k] + (2 * sent[0][k] + sent[1][k]) / 3 for k in start()}  # type: ignore[index]
    assert all(np.allclose(transport.last_model()[k], expected[k], atol=1e-6) for k in expected)


def test_nobody_moves_the_padding(config: Tiny) -> None:
    def move(reply: Reply) -> list[Reply]:
        assert reply.arrays is not None
        table = reply.arrays["items.weight"].copy()
        table[0] = 3.0
        return [replace(reply, arrays={**reply.arrays, "items.weight": table})]

    cfg = config(rounds=2, clip="none")
    transport = _transport(cfg, only("ann", "train", move))
    assert _run(cfg, transport).outcome == "completed"
    table = transport.last_model()["items.weight"]
    assert np.array_equal(table[0], start()["items.weight"][0])
    assert not np.array_equal(table[1:], start()["items.weight"][1:])


def test_one_node_with_an_example_does_not_outweigh_those_without(config: Tiny) -> None:
    """Where numbers of examples are not told, whoever tells one must not be the whole sum."""
    cfg = config(
        rounds=1, weighting="examples", server_optimizer="sgd", aggregation="mean", clip="none"
    )

    def tell(instruction: Instruction, reply: Reply) -> list[Reply]:
        if instruction.kind != "train":
            return [reply]
        told = int(instruction.node == "ann")
        return [replace(reply, metrics={**reply.metrics, "examples": told})]

    transport = _transport(cfg, tell)
    _run(cfg, transport)
    order = next(i for i in transport.asked if i.kind == "train")
    sent = [transport.known[n].answer(replace(order, node=n)).arrays for n in NAMES]
    mean = {k: np.mean([a[k] for a in sent], axis=0) for k in start()}  # type: ignore[index]
    assert all(np.allclose(transport.last_model()[k], start()[k] + mean[k]) for k in mean)


def test_a_liar_does_not_choose_the_best_round(
    config: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    """For a billion users, it says, nothing but the untrained model was any good."""
    values = [0.05, 0.1, 0.2, 0.15]
    users, names = 40, [f"n{i}" for i in range(9)]

    def lie(instruction: Instruction, reply: Reply) -> list[Reply]:
        if not instruction.evaluate or instruction.kind == "describe":
            return [reply]
        of_round = instruction.round - (instruction.kind == "train")
        said, value = users, values[of_round]
        if instruction.node == "n4":
            said, value = 10**9, float(of_round == 0)
        changed = {"eval-users": said, "eval-ndcg@20": said * value}
        return [replace(reply, metrics={**reply.metrics, **changed})]

    cfg = config(rounds=3)
    transport = FakeTransport([FakeNode(n, cfg, users) for n in names], lie)
    with caplog.at_level(logging.WARNING):
        result = _run(cfg, transport)
    assert result.best_round == 2
    chosen = [e for e in _of(result, "evaluation") if e["split"] == "validation"]
    assert chosen[0]["ndcg@20"] > 0.99, "what is reported are claims"
    assert chosen[0]["selection"] < 0.15
    assert chosen[0]["doubted"] == ["n4"]
    assert "node n4: its evaluation is out of line" in caplog.text


def test_more_users_than_there_can_be_are_refused(config: Tiny) -> None:
    cfg = config(rounds=1)
    boast = only("ann", "train", lambda r: _broken(r, metrics={**r.metrics, "users": 10**10}))
    (event,) = _of(_run(cfg, _transport(cfg, boast)), "round")
    assert event["failed"][0]["node"] == "ann"


def test_nodes_without_a_single_example_do_not_divide_by_zero(config: Tiny) -> None:
    cfg = config(rounds=2, weighting="examples")
    none = {"examples": 0, "loss": 0.0}

    def spoil(instruction: Instruction, reply: Reply) -> list[Reply]:
        train = instruction.kind == "train"
        return [replace(reply, metrics={**reply.metrics, **none}) if train else reply]

    result = _run(cfg, _transport(cfg, spoil))
    assert result.outcome == "completed"
    assert [e["loss"] for e in _of(result, "round")] == [None, None]
    assert all(np.isfinite(a).all() for a in result.params.values())


# ---------------------------------------------------------------- rounds that fail
def _failing(rounds: set[int], attempts: int = 1) -> Distort:
    """Only one node answers, the first ``attempts`` times that these rounds are tried."""
    tried: dict[int, int] = {}

    def distort(instruction: Instruction, reply: Reply) -> list[Reply]:
        if instruction.kind != "train" or instruction.round not in rounds:
            return [reply]
        if instruction.node == NAMES[0]:
            tried[instruction.round] = tried.get(instruction.round, 0) + 1
        first = instruction.node == NAMES[0]
        return [reply] if first or tried[instruction.round] > attempts else []

    return distort


def test_a_failed_round_is_tried_again_and_is_no_success(config: Tiny, tmp_path: Path) -> None:
    cfg = config(rounds=3, max_failed_rounds=1, server_optimizer="momentum")
    straight = _run(cfg, once := _transport(cfg), run_dir=tmp_path / "straight")
    result = _run(cfg, again := _transport(cfg, _failing({2})), run_dir=tmp_path / "failed")
    assert result.outcome == "failed"
    assert "1 rounds failed" in result.reason
    assert result.rounds == 3
    (failed,) = _of(result, "failed-round")
    assert failed["round"] == 2
    assert failed["nodes_ok"] == 1
    assert "min-replies = 2" in failed["reason"]
    assert [f["node"] for f in failed["failed"]] == ["bob", "cy", "dee"]
    rounds = [e["round"] for e in _of(result, "evaluation") if e["split"] == "validation"]
    assert rounds == [0, 1, 2, 3], "the model is not measured twice"
    assert _equal(again.last_model(), once.last_model()), "the failed attempt left no trace"
    assert _equal(result.params, straight.params)
    checkpoints = [load_checkpoint(tmp_path / d / LATEST) for d in ("straight", "failed")]
    assert all(
        np.array_equal(a, checkpoints[1].optimizer[n]) for n, a in checkpoints[0].optimizer.items()
    )


def test_too_many_failures_in_a_row_end_the_run(config: Tiny, tmp_path: Path) -> None:
    cfg = config(rounds=5, max_failed_rounds=2)
    result = _run(cfg, _transport(cfg, _failing({3}, attempts=99)), run_dir=tmp_path)
    assert result.outcome == "failed"
    assert "gave up: 3 failed rounds in a row" in result.reason
    assert "min-replies = 2" in result.reason
    assert result.rounds == 2
    assert len(_of(result, "failed-round")) == 3
    assert result.test, "what there is gets measured all the same"
    assert load_checkpoint(tmp_path / LATEST).progress.round == 2


def test_failures_that_are_not_in_a_row_do_not_add_up_to_the_end(config: Tiny) -> None:
    cfg = config(rounds=5, max_failed_rounds=1)
    result = _run(cfg, _transport(cfg, _failing({1, 2, 4})))
    assert result.rounds == 5
    assert result.outcome == "failed"
    assert "3 rounds failed" in result.reason


def test_a_failed_round_is_tried_again_with_other_nodes(config: Tiny) -> None:
    """With a fixed sample a single dead node would fail every attempt of its round."""
    cfg = config(rounds=6, fraction=0.5, max_failed_rounds=10)
    dead = only("ann", "train", lambda r: [])
    transport = _transport(cfg, dead)
    result = _run(cfg, transport)
    assert result.rounds == 6
    failed = _of(result, "failed-round")
    assert failed
    assert all([f["node"] for f in e["failed"]] == ["ann"] for e in failed)
    _run(cfg, again := _transport(cfg, dead))
    assert _equal(again.last_model(), transport.last_model())
    assert again.trained() == transport.trained(), "and yet the seed determines who"


def test_a_round_waits_for_nodes_until_its_deadline(config: Tiny) -> None:
    """Nodes that are away for a moment must not use up all attempts within milliseconds."""
    cfg = config(rounds=2, round_timeout=5.0)
    transport = _transport(cfg)

    def leave(event: Event) -> None:
        if event["event"] == "round":
            transport.connected = ["ann"]
            away.append(time.monotonic())

    away: list[float] = []
    real = transport.nodes

    def nodes() -> list[str]:
        if away and time.monotonic() - away[-1] > 0.1:
            transport.connected = list(NAMES)
        return real()

    transport.nodes = nodes  # type: ignore[method-assign]
    result = _run(cfg, transport, on_event=leave)
    assert result.outcome == "completed"
    assert _of(result, "failed-round") == []


def test_nodes_that_stay_away_fail_the_round_after_its_deadline(config: Tiny) -> None:
    cfg = config(rounds=2, round_timeout=0.2)
    transport = _transport(cfg)

    def leave(event: Event) -> None:
        if event["event"] == "round":
            transport.connected = ["ann"]

    started = time.monotonic()
    result = _run(cfg, transport, on_event=leave)
    assert 0.2 < time.monotonic() - started < 2
    assert result.outcome == "failed"
    (failed,) = _of(result, "failed-round")
    assert "0 valid replies of 1 usable nodes" in failed["reason"]
    assert [i for i in transport.asked if i.kind == "train" and i.round == 2] == []


def test_the_deadline_of_a_round_is_round_timeout(config: Tiny) -> None:
    cfg = config(rounds=1, round_timeout=3.0, start_timeout=2.0)
    transport = _transport(cfg)
    _run(cfg, transport)
    assert transport.deadlines[0] <= 2.0, "asking who is there cannot outlast start-timeout"
    assert 2.5 < transport.deadlines[1] <= 3.0


# ---------------------------------------------------------------- who may take part
def test_too_few_nodes_end_in_an_error_in_time(config: Tiny) -> None:
    cfg = config(min_nodes=5, min_replies=2, start_timeout=0.3)
    started = time.monotonic()
    with pytest.raises(FederationError, match=r"4 usable nodes after start-timeout = 0.3 s, "
                       r"min-nodes = 5; start more nodes or lower min-nodes"):  # fmt: skip
        _run(cfg, _transport(cfg))
    assert 0.3 <= time.monotonic() - started < 2


def test_no_nodes_end_in_an_error_too(config: Tiny) -> None:
    cfg = config()
    with pytest.raises(FederationError, match="0 usable nodes"):
        _run(cfg, _transport(cfg, names=[]))


def test_nodes_that_come_late_are_waited_for(config: Tiny) -> None:
    cfg = config(rounds=1, start_timeout=5.0)
    transport = _transport(cfg)
    transport.connected = []
    calls = 0

    def nodes() -> list[str]:
        nonlocal calls
        calls += 1
        return list(NAMES)[: calls // 2]

    transport.nodes = nodes  # type: ignore[method-assign]
    assert _run(cfg, transport).outcome == "completed"


def test_nodes_that_join_later_take_part(config: Tiny) -> None:
    cfg = config(rounds=3)
    transport = _transport(cfg)
    transport.connected = list(NAMES[:2])

    def join(event: Event) -> None:
        if event["event"] == "round" and event["round"] == 1:
            transport.connected = list(NAMES)

    result = _run(cfg, transport, on_event=join)
    assert [e["nodes_ok"] for e in _of(result, "round")] == [2, 4, 4]


def test_a_fingerprint_of_another_version_is_told_from_another_catalog(
    config: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config(rounds=2)
    transport = _transport(cfg)
    transport.known["cy"].catalog = "2:" + "f" * 64
    _run(cfg, transport)
    (message,) = [r.getMessage() for r in caplog.records if "cy" in r.getMessage()]
    assert "its catalog is '2:ffffffffffff'…" in message
    assert "of versions 2 and 1 and cannot be compared: use one version of LUMOS" in message


@pytest.mark.parametrize("fingerprint", ["catalog", "shape"])
def test_another_catalog_or_shape_is_refused_by_name(
    config: Tiny, caplog: pytest.LogCaptureFixture, fingerprint: str
) -> None:
    cfg = config(rounds=2)
    transport = _transport(cfg)
    setattr(transport.known["cy"], fingerprint, "f" * 64)
    result = _run(cfg, transport)
    assert result.outcome == "completed"
    assert [e["nodes_ok"] for e in _of(result, "round")] == [3, 3]
    assert not [i for i in transport.asked if i.node == "cy" and i.kind != "describe"]
    (message,) = [r.getMessage() for r in caplog.records if "cy" in r.getMessage()]
    assert f"node cy: refused: its {fingerprint} is 'ffffffffffff'" in message
    assert "version" not in message
    assert "catalog.tsv" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda r: [],
        lambda r: _broken(r, error="data-error\nINFO node cy: all is well"),
        lambda r: _broken(r, info={}),
        lambda r: _broken(r, info={"catalog": CATALOG}),
        lambda r: _broken(r, node="dee"),
        lambda r: _broken(r, kind="train"),
    ],
    ids=["silent", "error", "no facts", "half the facts", "as another", "another kind"],
)
def test_a_node_that_does_not_say_who_it_is_is_left_out(
    config: Tiny, caplog: pytest.LogCaptureFixture, change: Callable[[Reply], Sequence[Reply]]
) -> None:
    cfg = config(rounds=1)
    result = _run(cfg, _transport(cfg, only("cy", "describe", change)))
    assert [e["nodes_ok"] for e in _of(result, "round")] == [3]
    refusals = [r.getMessage() for r in caplog.records if "node cy: refused: " in r.getMessage()]
    assert len(refusals) == 1
    assert "\n" not in refusals[0]


def test_refused_nodes_are_named_when_there_are_too_few(config: Tiny) -> None:
    cfg = config(min_nodes=3)
    transport = _transport(cfg)
    transport.known["ann"].catalog = transport.known["dee"].catalog = "f" * 64
    with pytest.raises(FederationError, match=r"2 usable nodes .*refused: ann, dee"):
        _run(cfg, transport)


def test_a_refused_node_may_come_back_mended(config: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "RETRY_SECONDS", 0.0)
    cfg = config(rounds=3)
    transport = _transport(cfg)
    transport.known["cy"].catalog = "f" * 64

    def mend(event: Event) -> None:
        if event["event"] == "round" and event["round"] == 1:
            transport.known["cy"].catalog = CATALOG

    result = _run(cfg, transport, on_event=mend)
    assert [e["nodes_ok"] for e in _of(result, "round")] == [3, 4, 4]


def test_a_silent_node_is_asked_ever_more_rarely(
    config: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question may cost the round its time; a dead node must not slow down every round."""
    now = 0.0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

        sleep = staticmethod(time.sleep)

    monkeypatch.setattr(membership, "time", Clock)
    cfg = config()
    transport = _transport(cfg, only("cy", "describe", lambda r: []))
    expected = {"catalog": CATALOG, "shape": transport.known["ann"].shape}
    members = membership.Membership(transport, expected)
    asked_at = []
    for second in range(400):
        now = float(second)
        before = len(transport.asked)
        assert members.present() == ["ann", "bob", "dee"]
        if len(transport.asked) > before:
            asked_at.append(second)
    assert asked_at == [0, 10, 30, 70, 150, 310]
    assert list(members.refused) == ["cy"]


# ---------------------------------------------------------------- patience
def _scripted(values: list[float]) -> Distort:
    """Validation NDCG@20 of rounds 0, 1, 2, …; the same from every node."""

    def distort(instruction: Instruction, reply: Reply) -> list[Reply]:
        if instruction.evaluate != "validation":
            return [reply]
        last = instruction.kind == "evaluate" and instruction.round == len(values) - 1
        number = instruction.round if last else instruction.round - 1
        value = values[number] * reply.metrics["eval-users"]
        return [replace(reply, metrics={**reply.metrics, "eval-ndcg@20": value})]

    return distort


def test_patience_stops_and_the_best_round_is_kept(config: Tiny, tmp_path: Path) -> None:
    cfg = config(rounds=9, patience=2)
    values = [0.1, 0.3, 0.2, 0.3, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    result = _run(cfg, _transport(cfg, _scripted(values)), run_dir=tmp_path)
    assert result.outcome == "completed"
    assert result.best_round == 1
    assert result.validation["ndcg@20"] == pytest.approx(0.3)
    assert result.rounds == 3, "rounds 2 and 3 were not better; 0.3 again is not better either"
    shorter = config(rounds=1)
    once = _run(shorter, _transport(shorter, _scripted([0.1, 0.3])))
    assert _equal(result.params, once.params)
    assert load_checkpoint(tmp_path / BEST).progress.best_round == 1


def test_without_patience_all_rounds_are_run(config: Tiny) -> None:
    cfg = config(rounds=5, patience=0)
    result = _run(cfg, _transport(cfg, _scripted([0.9, 0.1, 0.1, 0.1, 0.1, 0.1])))
    assert (result.rounds, result.best_round) == (5, 0)
    assert _equal(result.params, start())


def test_the_test_set_is_seen_once_and_by_the_best_model_only(config: Tiny) -> None:
    cfg = config(rounds=4)
    transport = _transport(cfg, _scripted([0.1, 0.2, 0.9, 0.3, 0.4]))
    result = _run(cfg, transport)
    on_test = [i for i in transport.asked if i.evaluate == "test"]
    assert sorted(i.node for i in on_test) == sorted(NAMES)
    assert all(i.round == result.best_round == 2 for i in on_test)
    assert all(i.params is not None and _equal(i.params, result.params) for i in on_test)


# ---------------------------------------------------------------- callers
def test_the_callers_parameters_are_left_alone(config: Tiny) -> None:
    cfg = config(rounds=2, server_optimizer="momentum")
    mine = start()
    run_federation(cfg, _transport(cfg), CATALOG, mine)
    assert _equal(mine, start())


def test_a_failing_transport_is_not_hidden(config: Tiny, tmp_path: Path) -> None:
    cfg = config(rounds=3)

    def lost(instruction: Instruction, reply: Reply) -> list[Reply]:
        if instruction.round == 2:
            raise FederationError("lost the connection to the SuperLink")
        return [reply]

    with pytest.raises(FederationError, match="lost the connection"):
        _run(cfg, _transport(cfg, lost), run_dir=tmp_path)
    assert load_checkpoint(tmp_path / LATEST).progress.round == 1


# ---------------------------------------------------------------- versions of nodes
def _told(result: FederationResult) -> list[tuple[str, str, int, bool]]:
    events = _of(result, "versions")
    return [(e["node"], e["lumos"], e["protocol"], bool(e["note"])) for e in events]


def test_the_history_names_nodes_with_other_versions(config: Tiny, tmp_path: Path) -> None:
    cfg = config(rounds=1)
    transport = _transport(cfg)
    transport.known["cy"].versions = Versions("0.1.0", 0, "1.39.0", "3.11")
    result = _run(cfg, transport, run_dir=tmp_path)
    assert _told(result) == [("cy", "0.1.0", 0, True)]
    assert "pip install lumos==" in _of(result, "versions")[0]["note"]
    [cy] = [node for node in status_of(tmp_path).nodes if node.note]
    assert (cy.name, cy.versions) == ("cy", "LUMOS 0.1.0, protocol 0, Flower 1.39.0, Python 3.11")
    cfg = config(rounds=2)
    again = _run(cfg, transport, run_dir=tmp_path, resume=True)
    assert _told(again) == _told(result), "it is known already"
    transport.known["cy"].versions = versions.own()
    last = _run(config(rounds=3), transport, run_dir=tmp_path, resume=True)
    assert _told(last)[1:] == [("cy", versions.own().lumos, PROTOCOL, False)]
    assert not [node for node in status_of(tmp_path).nodes if node.note]


def test_nothing_is_in_the_history_before_there_is_a_checkpoint(
    config: Tiny, tmp_path: Path
) -> None:
    cfg = config(min_nodes=3)
    transport = _transport(cfg)
    for name in ("ann", "dee"):
        transport.known[name].versions = Versions("0.9.0", PROTOCOL + 2, "1.39.0", "3.12")
    with pytest.raises(FederationError, match=r"refused: ann, dee \(it has LUMOS 0.9.0, which"):
        _run(cfg, transport, run_dir=tmp_path)
    assert not (tmp_path / HISTORY).exists()
    assert _run(config(rounds=1, min_nodes=2), transport, run_dir=tmp_path).outcome == "completed"


def test_a_node_that_gets_another_protocol_meanwhile_is_asked_who_it_is(config: Tiny) -> None:
    cfg = config(rounds=3)

    def leap(instruction: Instruction, reply: Reply) -> list[Reply]:
        if (instruction.node, instruction.kind, instruction.round) == ("cy", "train", 2):
            transport.known["cy"].versions = Versions("9.0", PROTOCOL + 2, "1.39.0", "3.12")
            return [Reply("cy", "train", error="other-protocol")]
        return [reply]

    transport = _transport(cfg, leap)
    result = _run(cfg, transport)
    assert [e["ok"].count("cy") for e in _of(result, "round")] == [1, 0, 0]
    assert _told(result) == [("cy", "9.0", PROTOCOL + 2, True)]
    assert result.outcome == "completed"


# ---------------------------------------------------------------- nodes that are chosen
def test_only_chosen_nodes_take_part(config: Tiny) -> None:
    cfg = config(rounds=2, nodes="ann, ?y")
    transport = _transport(cfg)
    result = _run(cfg, transport)
    assert result.outcome == "completed"
    assert [e["ok"] for e in _of(result, "round")] == [["ann", "cy"]] * 2
    assert {i.node for i in transport.asked if i.kind != "describe"} == {"ann", "cy"}


def test_a_choice_that_nobody_meets_ends_in_an_error_that_names_it(config: Tiny) -> None:
    cfg = config(nodes="tag:eu")
    with pytest.raises(FederationError, match="0 usable nodes") as error:
        _run(cfg, _transport(cfg))
    assert "nodes = 'tag:eu' does not choose it; it has no tags" in str(error.value)
    assert str(error.value).endswith("or change nodes = 'tag:eu'")
