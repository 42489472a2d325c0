"""The weight of the titles' nearness: chosen on validation sums, kept, and told to the nodes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from federation_fakes import CATALOG, FakeNode, FakeTransport, start

from lumos_core.config import RunConfig
from lumos_core.config.run_keys import TITLE_WEIGHTS
from lumos_core.federation import membership
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.runs.checkpoint import BEST, LATEST, load_checkpoint
from lumos_core.wire.messages import Instruction, Metrics
from lumos_core.wire.reply_checks import evaluation_metrics

Tiny = Callable[..., RunConfig]


class Scripted(FakeNode):
    """Its NDCG@20 with each weight is dictated, round by round."""

    script: tuple[dict[float, float], ...] = ()

    def _evaluation(self, instruction: Instruction) -> Metrics:
        if instruction.evaluate == "test":
            found = super()._evaluation(instruction)
            return dict(found)
        values = self.script[instruction.round - (instruction.kind == "train")]
        return evaluation_metrics(
            {
                w: {
                    **{f"{m}@{k}": value * self.users for k in (5, 10, 20) for m in ("hr", "ndcg")},
                    "mrr": 0.0,
                    "users": float(self.users),
                }
                for w, value in values.items()
            }
        )


def _values(best: float, height: float) -> dict[float, float]:
    return {w: height if w == best else height / 2 for w in TITLE_WEIGHTS}


@pytest.fixture
def run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(membership, "POLL_SECONDS", 0.01)

    def make(**changes: Any) -> tuple[FederationResult, FakeTransport]:
        options = {k: changes.pop(k) for k in ("run_dir", "resume") if k in changes}
        facts = {"method": "fedavg-plus", "dim": 4, "rounds": 2, "round_timeout": 0.05}
        config = tiny(**{**facts, **changes})
        nodes = [Scripted(name, config) for name in ("ann", "bob", "cy")]
        transport = FakeTransport(nodes)
        return run_federation(config, transport, CATALOG, start(), **options), transport

    return make


def test_the_weight_of_the_best_round_is_used(run: Any, tmp_path: Path) -> None:
    Scripted.script = (_values(0.1, 0.2), _values(0.4, 0.6), _values(0.8, 0.5))
    result, transport = run(run_dir=tmp_path)
    told = {
        e["round"]: (e["title_weight"], e["ndcg@20"])
        for e in result.events
        if e["event"] == "evaluation" and e["split"] == "validation"
    }
    assert told == {
        0: (0.1, pytest.approx(0.2)),
        1: (0.4, pytest.approx(0.6)),
        2: (0.8, pytest.approx(0.5)),
    }
    assert (result.best_round, result.title_weight) == (1, 0.4)
    assert load_checkpoint(tmp_path / BEST).progress.title_weight == 0.4
    test = [i for i in transport.asked if i.evaluate == "test"]
    assert {i.title_weight for i in test} == {0.4}
    training = {i.round: i.title_weight for i in transport.asked if i.kind == "train"}
    assert training == {1: 0.0, 2: 0.1}, "nodes keep the model with the weight chosen so far"


def test_a_resumed_run_goes_on_with_the_weight(run: Any, tmp_path: Path) -> None:
    Scripted.script = (_values(0.2, 0.6), _values(0.0, 0.1), _values(0.0, 0.1), _values(0.0, 0.1))
    run(run_dir=tmp_path, rounds=1)
    result, transport = run(run_dir=tmp_path, rounds=3, resume=True)
    assert (result.best_round, result.title_weight) == (0, 0.2)
    assert {i.title_weight for i in transport.asked if i.evaluate == "test"} == {0.2}


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_a_given_weight_is_the_only_one(run: Any, weight: float) -> None:
    Scripted.script = ({weight: 0.2}, {weight: 0.3}, {weight: 0.4})
    result, transport = run(title_weight=weight)
    assert (result.outcome, result.title_weight) == ("completed", weight)
    assert {i.title_weight for i in transport.asked if i.params is not None} == {weight}


def test_a_given_weight_is_in_the_files_of_models_that_nothing_has_measured(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whoever loads them would rank without it."""
    run(run_dir=tmp_path / "none", title_weight=0.4, evaluation="none")
    monkeypatch.setattr(Scripted, "_evaluation", lambda self, asked: {})  # none is valid
    run(run_dir=tmp_path / "failed", title_weight=0.4, max_failed_rounds=0)
    for place in ("none", "failed"):
        for name in (BEST, LATEST):
            assert load_checkpoint(tmp_path / place / name).progress.title_weight == 0.4


def test_a_resumed_run_keeps_a_given_weight(run: Any, tmp_path: Path) -> None:
    for rounds in (1, 2):
        result, _ = run(
            run_dir=tmp_path, rounds=rounds, title_weight=0.4, evaluation="none", resume=rounds > 1
        )
    assert (result.best_round, result.title_weight) == (2, 0.4)
    assert load_checkpoint(tmp_path / BEST).progress.title_weight == 0.4


def test_methods_without_titles_in_rankings_do_not_ask_for_them(run: Any) -> None:
    Scripted.script = ({0.0: 0.2}, {0.0: 0.3}, {0.0: 0.4})
    result, _ = run(method="fedavg")
    assert result.title_weight == 0.0
    assert all("title_weight" not in event for event in result.events)


def test_a_liar_about_one_weight_does_not_choose_it(run: Any, tiny: Tiny) -> None:
    """Its claim counts only within the bounds that also protect the choice of the round."""

    class Liar(Scripted):
        def _evaluation(self, instruction: Instruction) -> Metrics:
            found = super()._evaluation(instruction)
            if instruction.evaluate == "validation":
                users = found["eval-users"]
                found = {k: users if k.endswith("titles-0.8") else 0 for k in found}
                found["eval-users"] = users
            return found

    Scripted.script = tuple(_values(0.2, 0.3) for _ in range(3))
    cfg = tiny(method="fedavg-plus", dim=4, rounds=1)
    nodes = [Scripted(n, cfg, users=100) for n in ("ann", "bob", "cy", "dee")]
    nodes.append(Liar("eve", cfg, users=100))
    result = run_federation(cfg, FakeTransport(nodes), CATALOG, start())
    assert result.title_weight == 0.2
