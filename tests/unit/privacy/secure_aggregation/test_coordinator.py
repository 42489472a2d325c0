"""Secure rounds from the server's side: sums, dropouts, thresholds, replies that are lies."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation_fakes import CATALOG, FakeNode, FakeTransport, start
from scipy.stats import chisquare
from secure_fakes import STEPS, SecureTransport, Spoil

from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.flower.cryptography import FLOWER
from lumos_core.learning.parameters import Params
from lumos_core.privacy.secure_aggregation.encoding import Encoding
from lumos_core.privacy.secure_aggregation.packets import MASKED
from lumos_core.wire import deltas
from lumos_core.wire.messages import Reply

Tiny = Callable[..., RunConfig]
NAMES = ("ann", "bob", "cy", "dee", "eve")


@pytest.fixture
def config(tiny: Tiny) -> Callable[..., RunConfig]:
    def make(**changes: Any) -> RunConfig:
        quick = {"dim": 4, "rounds": 1, "round_timeout": 5.0, "start_timeout": 0.05,
                 "max_failed_rounds": 0, "min_nodes": 3, "min_replies": 3,
                 "secure_aggregation": True}  # fmt: skip
        return tiny(**{**quick, **changes})

    return make


def _nodes(config: RunConfig) -> list[FakeNode]:
    return [FakeNode(n, config, users=30 + i) for i, n in enumerate(NAMES)]


def _run(config: RunConfig, transport: Any, **options: Any) -> FederationResult:
    return run_federation(config, transport, CATALOG, start(), primitives=FLOWER, **options)


def _mean(transport: SecureTransport, names: tuple[str, ...]) -> Params:
    """The model after a plain round of these nodes, weighted by users."""
    weights = {n: transport.known[n].users for n in names}
    found = {}
    for name, array in start().items():
        total = sum(w * transport.honest_delta(n, 1, start())[name].astype("f8")
                    for n, w in weights.items())  # fmt: skip
        found[name] = array + total / sum(weights.values())
    return found


def _close(a: Params, b: Params, atol: float) -> bool:
    return all(np.allclose(a[n], b[n], atol=atol, rtol=0) for n in a)


def _after(result: FederationResult, transport: SecureTransport, folder: Path) -> Params:
    from lumos_core.runs.checkpoint import LATEST, load_checkpoint

    return load_checkpoint(folder / LATEST).params


def test_the_aggregate_is_the_plain_one_to_within_quantisation(
    config: Tiny, tmp_path: Path
) -> None:
    for weighting in ("users", "examples", "uniform"):
        secure = config(weighting=weighting)
        plain = secure.replace(
            secure_aggregation=False, aggregation="mean", clip="none", max_weight_ratio=10.0
        )
        folders = tmp_path / f"{weighting}-s", tmp_path / f"{weighting}-p"
        transport = SecureTransport(_nodes(secure))
        results = (
            _run(secure, transport, run_dir=folders[0]),
            _run(plain, FakeTransport(_nodes(plain)), run_dir=folders[1]),
        )
        a, b = (_after(r, transport, f) for r, f in zip(results, folders, strict=True))
        encoding = Encoding.of(secure, start(), True)
        lightest = 1 if weighting == "uniform" else 30
        assert _close(a, b, encoding.step * encoding.max_weight / lightest + 1e-6)
        assert not _close(a, start(), 1e-2)
        secure_round, plain_round = (
            next(e for e in r.events if e["event"] == "round") for r in results
        )
        for fact in ("users", "examples", "nodes_ok", "ok", "failed"):
            assert secure_round[fact] == plain_round[fact]
        assert secure_round["loss"] == pytest.approx(plain_round["loss"])
        for x, y in zip(*([e for e in r.events if e["event"] == "evaluation"][:1]
                          for r in results), strict=True):  # fmt: skip
            assert (x["users"], x["nodes"]) == (y["users"], y["nodes"])
            assert x["ndcg@20"] == pytest.approx(y["ndcg@20"])


def test_a_secure_run_repeats_to_the_bit_whatever_the_keys(config: Tiny) -> None:
    cfg = config(rounds=3)
    one, two = (_run(cfg, SecureTransport(_nodes(cfg))) for _ in range(2))
    assert one.outcome == "completed"
    assert all(one.params[n].tobytes() == two.params[n].tobytes() for n in one.params)


def test_every_upload_looks_uniform_and_says_nothing_else(config: Tiny) -> None:
    cfg = config(rounds=1)
    transport = SecureTransport(_nodes(cfg))
    _run(cfg, transport)
    like = start()
    big = {n: np.tile(a, (400, 1)) for n, a in like.items() if a.ndim == 2}
    uploads = [transport.seen[n, "upload"] for n in NAMES]
    assert all(list(r.arrays or {}) == [MASKED] and not r.metrics for r in uploads)
    # 44 kB of one upload, with keys from the operating system: a false alarm once in 10^9 runs
    wide = SecureTransport([_Wide(n, cfg, big) for n in NAMES[:3]])
    exchange = _wide_upload(cfg, wide, big)
    words = np.ascontiguousarray(exchange)
    counts = np.bincount(words.view(np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-9
    same = Encoding.of(cfg, big, False).encode(
        {n: 0.01 * a for n, a in big.items()}, _counts(), np.random.default_rng(0)
    )
    counts = np.bincount(same.view(np.uint8), minlength=256)
    assert chisquare(counts).pvalue < 1e-100, "the test must see a vector without its masks"
    assert abs(np.corrcoef(words.view(np.int32), same.view(np.int32))[0, 1]) < 0.06


class _Wide(FakeNode):
    """Sends a given delta."""

    def __init__(self, name: str, config: RunConfig, like: Params) -> None:
        super().__init__(name, config)
        self.like = like

    def answer(self, instruction: Any) -> Reply:
        if instruction.kind == "train":
            arrays = {n: (0.01 * a).astype("f4") for n, a in self.like.items()}
            return Reply(instruction.node, "train", arrays, _counts())
        return super().answer(instruction)


def _counts() -> dict[str, int | float]:
    return {"users": 10, "examples": 50, "loss": 90.0, "contrastive": 0.0,
            "contrastive-users": 0, "views-complete": 1, "seconds": 0.01}  # fmt: skip


def _wide_upload(config: RunConfig, transport: SecureTransport, params: Params) -> np.ndarray:
    from lumos_core.privacy.secure_aggregation.coordinator import SecureExchange
    from lumos_core.wire.messages import Instruction

    instructions = [Instruction(n, "train", 1, params) for n in transport.known]
    outcome = SecureExchange(config, transport, FLOWER).exchange(instructions, 5.0)
    assert not outcome.failed
    (reply,) = outcome.replies
    assert reply.arrays is not None
    assert _close(reply.arrays, {n: 0.01 * a for n, a in params.items()}, 1e-3)
    found = (transport.seen["ann", "upload"].arrays or {})[MASKED]
    return found


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dead", [("eve",), ("ann",), ("bob", "dee")])
def test_nodes_that_die_after_any_step_do_not_cost_the_round(
    config: Tiny, tmp_path: Path, step: str, dead: tuple[str, ...]
) -> None:
    cfg = config(secagg_threshold=0.6)  # three of five
    transport = SecureTransport(_nodes(cfg), dict.fromkeys(dead, step))
    result = _run(cfg, transport, run_dir=tmp_path)
    (event,) = [e for e in result.events if e["event"] == "round"]
    # who died after the upload is in the sum all the same
    included = tuple(n for n in NAMES if n not in dead or step == "unmask")
    assert (event["ok"], event["nodes_ok"]) == (list(included), len(included))
    assert [f["node"] for f in event["failed"]] == sorted(set(NAMES) - set(included))
    assert event["users"] == sum(transport.known[n].users for n in included)
    assert _close(_after(result, transport, tmp_path), _mean(transport, included), 1e-4)


@pytest.mark.parametrize("step", STEPS)
def test_below_the_threshold_a_round_fails_and_the_model_stays(
    config: Tiny, tmp_path: Path, step: str
) -> None:
    cfg = config(secagg_threshold=0.6)
    transport = SecureTransport(_nodes(cfg), dict.fromkeys(("ann", "cy", "eve"), step))
    result = _run(cfg, transport, run_dir=tmp_path)
    assert result.outcome == "failed"
    found = _after(result, transport, tmp_path)
    assert all(found[n].tobytes() == a.tobytes() for n, a in start().items())
    (event,) = [e for e in result.events if e["event"] == "failed-round"]
    assert [f["node"] for f in event["failed"]] == list(NAMES)


def test_a_failed_attempt_is_followed_by_another(config: Tiny) -> None:
    cfg = config(max_failed_rounds=1, secagg_threshold=0.9)
    transport = SecureTransport(_nodes(cfg), {"bob": "unmask", "cy": "unmask"})

    class Recovers(SecureTransport):
        def exchange(self, instructions: Any, deadline: float) -> list[Reply]:
            replies = super().exchange(instructions, deadline)
            if any(i.secure and i.secure["stage"] == "unmask" for i in instructions):
                self.dead = {}
            return replies

    transport = Recovers(_nodes(cfg), {"bob": "unmask", "cy": "unmask"})
    result = _run(cfg, transport)
    assert [e["event"] for e in result.events].count("failed-round") == 1
    assert result.rounds == 1


# ---------------------------------------------------------------- lies
def _with(**changes: Any) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, secure={**reply.secure, **changes})


def _vector(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, arrays={MASKED: change((reply.arrays or {})[MASKED])})


LEFT_OUT: dict[str, tuple[str, Callable[[Reply], Reply]]] = {
    "no keys": ("open", lambda r: replace(r, secure={})),
    "not a point": ("open", _with(seal=b"\x02" + b"\xff" * 48)),
    "text for a key": ("open", _with(mask="key")),
    "one key twice": ("open", lambda r: _with(mask=r.secure["seal"])(r)),
    "another attempt's keys": ("open", _with(attempt=7)),
    "an extra field": ("open", _with(more=1)),
    "an error": ("open", lambda r: replace(r, error="secagg-refused")),
    "shares for strangers": ("roster", _with(names=["ann", "bob", "cy", "mallory"])),
    "shares for few": ("roster", _with(names=["ann"], sealed=[b"x"])),
    "lists of two lengths": ("roster", _with(sealed=[b"x"])),
    "a huge share": ("roster", lambda r: _with(sealed=[b"x" * 5000] * 4)(r)),
    "names that are not": ("roster", _with(names=["ann", "bob", "cy", "../x"])),
    "a short vector": ("upload", _vector(lambda v: v[:-1])),
    "floats": ("upload", _vector(lambda v: v.astype(np.float32))),
    "wide words": ("upload", _vector(lambda v: v.astype(np.uint64))),
    "two arrays": ("upload", lambda r: replace(r, arrays={**(r.arrays or {}), "x": np.zeros(1)})),
    "no array": ("upload", lambda r: replace(r, arrays=None)),
}


def _by_eve(step: str, change: Callable[[Reply], Reply]) -> Spoil:
    return lambda node, at, reply: change(reply) if (node, at) == ("eve", step) else reply


@pytest.mark.parametrize(("step", "lie"), LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_who_sends_nonsense_is_named_and_left_out(
    config: Tiny, tmp_path: Path, step: str, lie: Callable[[Reply], Reply]
) -> None:
    cfg = config()
    transport = SecureTransport(_nodes(cfg), spoil=_by_eve(step, lie))
    result = _run(cfg, transport, run_dir=tmp_path)
    (event,) = [e for e in result.events if e["event"] == "round"]
    assert event["ok"] == list(NAMES[:4])
    assert [f["node"] for f in event["failed"]] == ["eve"]
    assert _close(_after(result, transport, tmp_path), _mean(transport, NAMES[:4]), 1e-4)


def test_a_copied_key_does_not_get_in(config: Tiny) -> None:
    cfg = config()
    seen: dict[str, Any] = {}

    def copy(node: str, step: str, reply: Reply) -> Reply:
        if step == "open":
            seen[node] = reply.secure
            if node == "eve":
                return replace(reply, secure=seen["ann"])
        return reply

    result = _run(cfg, SecureTransport(_nodes(cfg), spoil=copy))
    (event,) = [e for e in result.events if e["event"] == "round"]
    assert event["ok"] == list(NAMES[:4])


SPOILS: dict[str, tuple[str, Callable[[Reply], Reply]]] = {
    "sealed garbage": (
        "roster", lambda r: _with(sealed=[b"x" * len(s) for s in r.secure["sealed"]])(r)  # type: ignore[union-attr]
    ),
    "random vector": (
        "upload", _vector(lambda v: np.random.default_rng(0).integers(0, 2**32, len(v), np.uint32))
    ),
    "huge delta": ("upload", _vector(lambda v: v + np.uint32(2**29))),
    "false weight": ("upload", _vector(lambda v: np.r_[v[:-4], v[-4:] + np.uint32(2**15)])),
}  # fmt: skip


@pytest.mark.parametrize(("step", "lie"), SPOILS.values(), ids=SPOILS.keys())
def test_a_lie_that_only_the_sum_shows_fails_the_round_and_not_the_model(
    config: Tiny, tmp_path: Path, step: str, lie: Callable[[Reply], Reply]
) -> None:
    cfg = config()
    transport = SecureTransport(_nodes(cfg), spoil=_by_eve(step, lie))
    result = _run(cfg, transport, run_dir=tmp_path)
    assert result.outcome == "failed"
    found = _after(result, transport, tmp_path)
    assert all(found[n].tobytes() == a.tobytes() for n, a in start().items())


def test_false_shares_fail_the_round_and_not_the_model(config: Tiny, tmp_path: Path) -> None:
    cfg = config(secagg_threshold=1.0)

    def lie(node: str, step: str, reply: Reply) -> Reply:
        if (node, step) != ("ann", "unmask"):
            return reply
        shares = [s[:4] + bytes(len(s) - 4) for s in reply.secure["shares"]]  # type: ignore[union-attr]
        return _with(shares=shares)(reply)

    result = _run(cfg, SecureTransport(_nodes(cfg), spoil=lie), run_dir=tmp_path)
    assert result.outcome == "failed"
    assert result.rounds == 0


# ---------------------------------------------------------------- configuration
@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"aggregation": "median"}, ("aggregation",)),
        ({"clip": "norm"}, ("clip",)),
        ({"delta_codec": "int8"}, ("delta-codec",)),
        ({"min_replies": 2}, ("min-replies",)),
        ({"secagg_bits": 30, "min_replies": 5, "min_nodes": 5}, ("secagg-bits", "min-replies")),
        ({"dp": "central", "weighting": "uniform", "dp_clip": 20.0}, ("secagg-clip", "dp-clip")),
        ({"secagg_threshold": 0.5}, ("secagg-threshold",)),
    ],
)
def test_impossible_combinations_name_their_keys(
    config: Tiny, changes: dict[str, Any], keys: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    for key in keys:
        assert key in str(caught.value)


def test_a_run_without_cryptography_does_not_start(config: Tiny) -> None:
    cfg = config()
    with pytest.raises(ConfigError, match="secure-aggregation"):
        run_federation(cfg, SecureTransport(_nodes(cfg)), CATALOG, start())


@pytest.mark.parametrize("dp", ["central", "distributed"])
def test_noise_goes_with_it(config: Tiny, dp: str, tmp_path: Path) -> None:
    pytest.importorskip("opacus")
    cfg = config(dp=dp, weighting="uniform", dp_clip=5.0, dp_noise_multiplier=0.5, dp_noise_seed=0)
    transport = SecureTransport(_nodes(cfg))
    result = _run(cfg, transport, run_dir=tmp_path)
    assert result.outcome == "completed"
    assert result.epsilon is not None
    clipped = [deltas.clip(transport.honest_delta(n, 1, start()), cfg.dp_clip) for n in NAMES]
    if dp == "central":
        found = _after(result, transport, tmp_path)
        noise = np.concatenate([
            (found[n] - a - np.mean([c[n] for c in clipped], axis=0)).ravel()
            for n, a in start().items()
        ])  # fmt: skip
        assert 0.5 < noise.std() / (0.5 * cfg.dp_clip / 5) < 2
