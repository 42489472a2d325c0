"""A run that is killed anywhere and resumed ends as if nothing had happened."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation_fakes import CATALOG, FakeNode, FakeTransport, start

from lumos_core import safe_files
from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError, DataError, LumosError, ModelError
from lumos_core.federation import membership, run_models
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.runs import checkpoint
from lumos_core.runs.checkpoint import BEST, LATEST, Checkpoint, load_checkpoint, save_checkpoint
from lumos_core.runs.history import HISTORY, Event, read_history
from lumos_core.wire.messages import Instruction, Reply

Tiny = Callable[..., RunConfig]
NAMES = ("ann", "bob", "cy", "dee", "eve")
EXTRA = {"time", "seconds", "train_seconds", "bytes_up", "bytes_down"}
"""What is spent rather than reached: what was evaluated before a stop is not evaluated again."""


class Killed(BaseException):
    """As SIGKILL would: nothing may catch it, nothing may tidy up after it."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "POLL_SECONDS", 0.01)


@pytest.fixture
def config(tiny: Tiny) -> Callable[..., RunConfig]:
    def make(**changes: Any) -> RunConfig:
        usual = {
            "dim": 4, "rounds": 4, "fraction": 0.6, "server_optimizer": "adam",
            "aggregation": "multi-krum", "delta_codec": "int8", "round_timeout": 0.05,
        }  # fmt: skip
        return tiny(**{**usual, **changes})

    return make


def _flaky(instruction: Instruction, reply: Reply) -> list[Reply]:
    """One node never manages the second round."""
    fails = (instruction.kind, instruction.round, instruction.node) == ("train", 2, "cy")
    return [] if fails else [reply]


def _run(cfg: RunConfig, run_dir: Path, **options: Any) -> FederationResult:
    transport = options.pop("transport", None) or _transport(cfg)
    return run_federation(cfg, transport, CATALOG, start(), run_dir=run_dir, **options)


def _transport(cfg: RunConfig) -> FakeTransport:
    return FakeTransport([FakeNode(n, cfg, 3 + i) for i, n in enumerate(NAMES)], _flaky)


def _events(run_dir: Path) -> list[Event]:
    return [{k: v for k, v in e.items() if k not in EXTRA} for e in read_history(run_dir / HISTORY)]


def _assert_same_end(run_dir: Path, result: FederationResult, straight: Path, end: Any) -> None:
    for name in (LATEST, BEST):
        found, expected = load_checkpoint(run_dir / name), load_checkpoint(straight / name)
        for ours, theirs in (
            (found.params, expected.params), (found.optimizer, expected.optimizer)
        ):  # fmt: skip
            assert ours.keys() == theirs.keys()
            assert all(ours[n].tobytes() == theirs[n].tobytes() for n in ours)
    assert load_checkpoint(run_dir / LATEST).progress == load_checkpoint(straight / LATEST).progress
    assert all(result.params[n].tobytes() == a.tobytes() for n, a in end.params.items())
    for fact in ("outcome", "reason", "rounds", "best_round", "validation", "test"):
        assert getattr(result, fact) == getattr(end, fact), fact
    assert _events(run_dir) == _events(straight)


def _killers() -> dict[str, Callable[[pytest.MonkeyPatch, Iterator[int], int], dict[str, Any]]]:
    """Ways to die: when the n-th event is announced, in the n-th exchange, at the n-th write."""

    def at_event(patch: pytest.MonkeyPatch, counter: Iterator[int], n: int) -> dict[str, Any]:
        def die(event: Event) -> None:
            if next(counter) == n:
                raise Killed

        return {"on_event": die}

    def in_exchange(patch: pytest.MonkeyPatch, counter: Iterator[int], n: int) -> dict[str, Any]:
        real = FakeTransport.exchange

        def exchange(self: FakeTransport, *args: Any) -> list[Reply]:
            if next(counter) == n:
                raise Killed
            return real(self, *args)

        patch.setattr(FakeTransport, "exchange", exchange)
        return {}

    def before_write(patch: pytest.MonkeyPatch, counter: Iterator[int], n: int) -> dict[str, Any]:
        real = safe_files.os.replace

        def die(*args: Any) -> None:
            if next(counter) == n:
                raise Killed
            real(*args)

        patch.setattr(safe_files.os, "replace", die)
        return {}

    def after_write(patch: pytest.MonkeyPatch, counter: Iterator[int], n: int) -> dict[str, Any]:
        real = save_checkpoint

        def save(*args: Any) -> None:
            real(*args)
            if next(counter) == n:
                raise Killed

        patch.setattr(run_models, "save_checkpoint", save)
        return {}

    return {f.__name__: f for f in (at_event, in_exchange, before_write, after_write)}


@pytest.mark.parametrize("way", _killers())
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"server_optimizer": "momentum", "aggregation": "mean", "evaluate_every": 2},
        {
            "min_replies": 3,
            "min_nodes": 3,
            "max_failed_rounds": 9,
        },  # the second round fails at times
        {"rounds": 6, "patience": 1},
    ],
    ids=["adam", "momentum", "failed rounds", "patience"],
)
def test_killed_once_at_every_point(
    config: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, changes: dict[str, Any]
) -> None:
    cfg = config(**changes)
    straight = tmp_path / "straight"
    end = _run(cfg, straight)
    assert end.rounds >= 1
    if "min_replies" in changes:
        assert "failed-round" in {e["event"] for e in end.events}
    killed = 0
    for n in count():
        run_dir = tmp_path / f"killed-{n}"
        with monkeypatch.context() as patch:
            options = _killers()[way](patch, count(), n)
            try:
                _run(cfg, run_dir, **options)
                break
            except Killed:
                killed += 1
        result = _run(cfg, run_dir, resume=True)
        _assert_same_end(run_dir, result, straight, end)
    assert killed >= 2 * end.rounds - 1


@pytest.mark.parametrize("way", _killers())
def test_killed_again_and_again(
    config: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Killed at the sixth chance of every life, until it gets through."""
    cfg = config(rounds=9)
    end = _run(cfg, tmp_path / "straight")
    run_dir = tmp_path / "killed"
    lives = 0
    while True:
        lives += 1
        assert lives < 60, "no life gets any further than the one before"
        with monkeypatch.context() as patch:
            options = _killers()[way](patch, count(), 5)
            try:
                result = _run(cfg, run_dir, resume=True, **options)
                break
            except Killed:
                continue
    assert lives >= 2, "it was never killed"
    _assert_same_end(run_dir, result, tmp_path / "straight", end)


def test_a_history_cut_in_the_middle_of_a_line(config: Tiny, tmp_path: Path) -> None:
    cfg = config()
    end = _run(cfg, tmp_path / "straight")
    run_dir = tmp_path / "killed"

    def die(event: Event) -> None:
        if event["event"] == "round" and event["round"] == 3:
            raise Killed

    with pytest.raises(Killed):
        _run(cfg, run_dir, on_event=die)
    lines = (run_dir / HISTORY).read_bytes()
    (run_dir / HISTORY).write_bytes(lines[:-20])
    result = _run(cfg, run_dir, resume=True)
    _assert_same_end(run_dir, result, tmp_path / "straight", end)


def test_a_history_cut_in_its_first_line(config: Tiny, tmp_path: Path) -> None:
    cfg = config()
    end = _run(cfg, tmp_path / "straight")
    run_dir = tmp_path / "killed"

    def die(event: Event) -> None:
        raise Killed

    with pytest.raises(Killed):
        _run(cfg, run_dir, on_event=die)
    (run_dir / HISTORY).write_bytes((run_dir / HISTORY).read_bytes()[:30])
    result = _run(cfg, run_dir, resume=True)
    _assert_same_end(run_dir, result, tmp_path / "straight", end)


def test_more_rounds_for_a_finished_run(config: Tiny, tmp_path: Path) -> None:
    longer = config(rounds=5)
    end = _run(longer, tmp_path / "straight")
    short = config(rounds=3)
    _run(short, tmp_path / "resumed")
    news: list[Event] = []
    result = _run(longer, tmp_path / "resumed", resume=True, on_event=news.append)
    assert [e["round"] for e in news if e["event"] == "round"] == [4, 5]
    straight, resumed = (load_checkpoint(tmp_path / d / LATEST) for d in ("straight", "resumed"))
    assert all(resumed.params[n].tobytes() == a.tobytes() for n, a in straight.params.items())
    assert resumed.progress == straight.progress
    assert (result.best_round, result.test) == (end.best_round, end.test)


def test_a_finished_run_is_only_tested_again(config: Tiny, tmp_path: Path) -> None:
    cfg = config(rounds=2)
    end = _run(cfg, tmp_path)
    transport = _transport(cfg)
    again = _run(cfg, tmp_path, transport=transport, resume=True)
    assert transport.trained() == []
    assert again.test == end.test
    assert len([e for e in read_history(tmp_path / HISTORY) if e.get("split") == "test"]) == 1


def test_a_run_out_of_patience_stays_so_unless_given_more(config: Tiny, tmp_path: Path) -> None:
    cfg = config(rounds=9, patience=1)
    end = _run(cfg, tmp_path)
    assert end.rounds < 9
    assert _run(cfg, tmp_path, resume=True).rounds == end.rounds
    assert _run(cfg.replace(patience=0), tmp_path, resume=True).rounds == 9


def test_nothing_there_is_a_fresh_start(config: Tiny, tmp_path: Path) -> None:
    cfg = config()
    end = _run(cfg, tmp_path / "straight")
    result = _run(cfg, tmp_path / "new", resume=True)
    _assert_same_end(tmp_path / "new", result, tmp_path / "straight", end)


def test_failed_rounds_are_not_forgotten(config: Tiny, tmp_path: Path) -> None:
    """Stopping and resuming must not turn a failed run into a success."""
    cfg = config(rounds=2, max_failed_rounds=0, min_replies=2, fraction=1.0)
    transport = _transport(cfg)
    transport.distort = lambda i, r: [] if i.kind == "train" and i.round == 2 else [r]
    assert _run(cfg, tmp_path, transport=transport).outcome == "failed"
    result = _run(cfg, tmp_path, resume=True)
    assert result.rounds == 2
    assert result.outcome == "failed"
    assert "1 rounds failed" in result.reason


def test_parameters_come_back_in_the_models_order(config: Tiny, tmp_path: Path) -> None:
    cfg = config(rounds=2)
    _run(cfg, tmp_path)
    assert list(load_checkpoint(tmp_path / LATEST).params) != list(start()), "files sort by name"
    transport = _transport(cfg)
    longer = cfg.replace(rounds=3)
    result = _run(longer, tmp_path, transport=transport, resume=True)
    assert list(result.params) == list(start())
    assert all(list(i.params) == list(start()) for i in transport.asked if i.params is not None)


# ---------------------------------------------------------------- what must not be resumed
@pytest.fixture
def stopped(config: Tiny, tmp_path: Path) -> Path:
    """The folder of a run of two rounds."""
    _run(config(rounds=2), tmp_path / "run")
    return tmp_path / "run"


def test_an_existing_run_is_not_overwritten(config: Tiny, stopped: Path) -> None:
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=r"already holds a run .*resume it, or choose another"):
        _run(config(rounds=2), stopped)
    (stopped / LATEST).rename(stopped / "elsewhere")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"already holds a run \(found history.jsonl\)"):
            _run(config(rounds=2), stopped, resume=resume)
    (stopped / "elsewhere").rename(stopped / LATEST)
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1), ("method", "confedsrs"), ("learning_rate", 0.5), ("fraction", 1.0),
        ("local_epochs", 2), ("server_optimizer", "sgd"), ("aggregation", "median"),
        ("delta_codec", "float32"), ("evaluate_every", 3),
        ("weighting", "uniform"),
    ],
)  # fmt: skip
def test_another_configuration_is_refused_by_key(
    config: Tiny, stopped: Path, field: str, value: Any
) -> None:
    other = config(rounds=3, **{field: value})
    before = (stopped / LATEST).read_bytes()
    key = field.replace("_", "-")
    old = config().to_flat()[key]
    with pytest.raises(ConfigError, match=rf"was made with {key} = {old!r}, found {value!r}"):
        _run(other, stopped, resume=True)
    assert (stopped / LATEST).read_bytes() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rounds", 3), ("patience", 2), ("round_timeout", 0.1), ("start_timeout", 0.5),
        ("max_failed_rounds", 5), ("catalog", "/elsewhere/catalog.tsv"), ("run_dir", "/elsewhere"),
        ("min_nodes", 4), ("min_replies", 1),
    ],
)  # fmt: skip
def test_how_long_and_where_may_change(config: Tiny, stopped: Path, field: str, value: Any) -> None:
    assert _run(config(**{"rounds": 2, field: value}), stopped, resume=True).outcome == "completed"


def test_what_noise_is_computed_from_may_not_change(config: Tiny, tmp_path: Path) -> None:
    noisy = config(
        rounds=1, dp="distributed", weighting="uniform", aggregation="mean", delta_codec="float32",
        min_nodes=3, min_replies=3,
    )  # fmt: skip
    _run(noisy, tmp_path)
    with pytest.raises(ConfigError, match="was made with min-replies = 3, found 2"):
        _run(noisy.replace(min_replies=2), tmp_path, resume=True)
    _run(noisy.replace(min_nodes=4), tmp_path, resume=True)


def test_a_key_that_is_newer_than_the_checkpoint_has_its_default(
    config: Tiny, stopped: Path
) -> None:
    found = load_checkpoint(stopped / LATEST)
    older = {k: v for k, v in found.progress.config.items() if k != "weighting"}
    save_checkpoint(
        stopped / LATEST, replace(found, progress=replace(found.progress, config=older))
    )
    assert _run(config(rounds=2), stopped, resume=True).outcome == "completed"
    newer = {**found.progress.config, "no-such-key": 1}
    save_checkpoint(
        stopped / LATEST, replace(found, progress=replace(found.progress, config=newer))
    )
    with pytest.raises(ConfigError, match=r"unknown key 'no-such-key'.*another version of LUMOS"):
        _run(config(rounds=2), stopped, resume=True)


def test_another_catalog_or_model_is_refused(config: Tiny, stopped: Path) -> None:
    cfg = config(rounds=3)
    with pytest.raises(ModelError, match=r"latest\.safetensors: was made with another catalog"):
        run_federation(cfg, _transport(cfg), "d" * 64, start(), run_dir=stopped, resume=True)
    larger = {**start(), "items.weight": np.zeros((9, 4), "f4")}
    with pytest.raises(ModelError, match=r"latest\.safetensors: was made with another shape"):
        run_federation(cfg, _transport(cfg), CATALOG, larger, run_dir=stopped, resume=True)


def test_a_run_of_the_same_catalog_by_an_older_fingerprint_goes_on(
    config: Tiny, stopped: Path
) -> None:
    cfg = config(rounds=3)
    new = "2:" + "d" * 64
    transport = _transport(cfg)
    for node in transport.known.values():
        node.catalog = new
    again: dict[str, Any] = {"run_dir": stopped, "resume": True}
    with pytest.raises(ModelError, match=r"another catalog .*versions 1 and 2"):
        run_federation(cfg, transport, new, start(), **again)
    again["known_as"] = lambda fingerprint: fingerprint == CATALOG
    result = run_federation(cfg, transport, new, start(), **again)
    assert result.outcome == "completed"
    assert load_checkpoint(stopped / LATEST).progress.catalog == new


Spoil = Callable[[Path], object]


def _checkpoint(name: str, change: Callable[[Checkpoint], Checkpoint]) -> Spoil:
    def spoil(run_dir: Path) -> None:
        checkpoint.save_checkpoint(run_dir / name, change(load_checkpoint(run_dir / name)))

    return spoil


def _params(
    change: Callable[[dict[str, np.ndarray]], object],
) -> Callable[[Checkpoint], Checkpoint]:
    def changed(found: Checkpoint) -> Checkpoint:
        params = dict(found.params)
        change(params)
        return replace(found, params=params)

    return changed


def _lines(change: Callable[[list[Event]], list[Event]]) -> Spoil:
    def spoil(run_dir: Path) -> None:
        events = change(read_history(run_dir / HISTORY))
        (run_dir / HISTORY).write_text("".join(json.dumps(e) + "\n" for e in events))

    return spoil


DAMAGE: dict[str, tuple[Spoil, str]] = {
    "no bytes": (lambda d: (d / LATEST).write_bytes(b""), "not a readable LUMOS checkpoint"),
    "half a file": (
        lambda d: (d / LATEST).write_bytes((d / LATEST).read_bytes()[:-9]), "not a readable LUMOS"
    ),
    "an array missing": (
        _checkpoint(LATEST, _params(lambda p: p.pop("a.bias"))),
        r"latest.safetensors: array 'a.bias' is None, expected \(\(4,\)",
    ),
    "an array too many": (
        _checkpoint(LATEST, _params(lambda p: p.update(x=np.zeros(1, "f4")))), "array 'x' is"
    ),
    "another shape": (
        _checkpoint(LATEST, _params(lambda p: p.update({"a.bias": np.zeros(5, "f4")}))),
        "array 'a.bias' is",
    ),
    "another dtype": (
        _checkpoint(LATEST, _params(lambda p: p.update({"a.bias": np.zeros(4)}))),
        "array 'a.bias' is",
    ),
    "an optimiser of something else": (
        _checkpoint(LATEST, lambda c: replace(c, optimizer={"m:zzz": np.zeros(4, "f4")})),
        "optimiser state 'm:zzz' fits no parameter",
    ),
    "an optimiser of another shape": (
        _checkpoint(LATEST, lambda c: replace(c, optimizer={"m:a.bias": np.zeros(3, "f4")})),
        "optimiser state 'm:a.bias' fits no parameter",
    ),
    "no history": (lambda d: (d / HISTORY).unlink(), "history.jsonl: lacks the evaluation of"),
    "a line damaged": (
        lambda d: (d / HISTORY).write_text("{\n" + (d / HISTORY).read_text()),
        "history.jsonl: line 1: found '{', expected a JSON object",
    ),
    "a foreign event": (
        _lines(lambda es: [{"event": "evaluation"}, *es]), "history.jsonl: an event is not as"
    ),
    "a best model of another round": (
        _checkpoint(BEST, lambda c: replace(c, progress=replace(c.progress, best_round=77))),
        r"best.safetensors: holds round 77, expected the best round",
    ),
    "no best model": (lambda d: (d / BEST).unlink(), r"best.safetensors: no checkpoint here"),
    "a best model of another shape": (
        _checkpoint(BEST, _params(lambda p: p.pop("a.bias"))), "best.safetensors: array 'a.bias'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_nothing_is_made_worse(
    config: Tiny, tmp_path: Path, damage: str
) -> None:
    run_dir = tmp_path / "run"
    cfg = config(rounds=1)
    for seed in range(20):  # a run whose best round is not its last, so that both files count
        cfg = config(rounds=3, seed=seed)
        if _run(cfg, run_dir).best_round < 3:
            break
        shutil.rmtree(run_dir)
    spoil, message = DAMAGE[damage]
    spoil(run_dir)
    before = {p: p.read_bytes() for p in run_dir.rglob("*") if p.is_file()}
    with pytest.raises(LumosError, match=message) as caught:
        _run(cfg.replace(rounds=4), run_dir, resume=True)
    assert isinstance(caught.value, ModelError | DataError)
    assert {p: p.read_bytes() for p in run_dir.rglob("*") if p.is_file()} == before
