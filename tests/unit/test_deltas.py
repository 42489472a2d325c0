"""Deltas: what is sent, and what is refused, by name."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest

from lumos_core import deltas
from lumos_core.deltas import SCALE, add, check_norm, decode, encode, norm, subtract, wire_bytes
from lumos_core.errors import ReplyError
from lumos_core.model import Params

CODECS: tuple[deltas.Codec, ...] = ("float32", "float16", "int8")


def _params(seed: int = 0, size: float = 1.0) -> Params:
    rng = np.random.default_rng(seed)
    shapes = {"items.weight": (6, 4), "blocks.0.w": (2, 3, 4), "norm.bias": (4,)}
    return {n: (size * rng.normal(size=s)).astype(np.float32) for n, s in shapes.items()}


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_subtract_and_add_are_inverse() -> None:
    received, local = _params(0), _params(1)
    delta = subtract(local, received)
    assert list(delta) == list(received)
    again = add(received, delta)
    for name in received:
        assert again[name].dtype == delta[name].dtype == np.float32
        np.testing.assert_allclose(again[name], local[name], atol=1e-6)


def test_norm_is_that_of_all_values_together() -> None:
    delta = _params()
    flat = np.concatenate([a.ravel() for a in delta.values()]).astype(np.float64)
    assert norm(delta) == pytest.approx(np.linalg.norm(flat))
    assert norm({}) == 0


def test_norm_does_not_overflow() -> None:
    huge = {"a": np.full((10, 10), 3e38, dtype=np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert norm(huge) == pytest.approx(3e39)


@pytest.mark.parametrize("codec", CODECS)
def test_round_trip(codec: deltas.Codec) -> None:
    delta = _params(size=0.01)
    sent = encode(delta, codec, _rng())
    back = decode(sent, codec, _params())
    assert list(back) == list(delta)
    for name, array in back.items():
        assert array.dtype == np.float32
        limit = {
            "float32": 0.0,
            "float16": 1e-5,
            "int8": float(np.abs(delta[name]).max()) / 127,
        }[codec]
        assert np.abs(array - delta[name]).max() <= limit


def test_float16_saturates_instead_of_overflowing() -> None:
    delta = {"a": np.array([1e6, -1e6], dtype=np.float32)}
    back = decode(encode(delta, "float16", _rng()), "float16", delta)
    assert back["a"].tolist() == [65504.0, -65504.0]


def test_codecs_save_what_they_promise() -> None:
    delta = {"items.weight": _params()["items.weight"].repeat(16, axis=1)}  # [6, 64]
    sizes = {c: wire_bytes(encode(delta, c, _rng())) for c in CODECS}
    assert sizes == {"float32": 6 * 64 * 4, "float16": 6 * 64 * 2, "int8": 6 * 64 + 6 * 4}


def test_int8_rounding_is_unbiased() -> None:
    delta = {"a": np.array([[0.5, 1.0, -0.123, 0.0049, 0.0]], dtype=np.float32)}
    rng = _rng()
    draws = np.stack([decode(encode(delta, "int8", rng), "int8", delta)["a"] for _ in range(4000)])
    scale = 1.0 / 127
    assert np.abs(draws - delta["a"]).max() <= scale
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (error < scale / 100).all()
    assert (np.abs(draws.mean(axis=0) - delta["a"]) <= 4 * error + 1e-6).all()
    assert draws.std(axis=0)[0, 2] > 0, "values between two steps must be rounded either way"


def test_int8_rounding_is_determined_by_its_generator() -> None:
    first, again, other = (encode(_params(), "int8", np.random.default_rng(s)) for s in (1, 1, 2))
    assert all(np.array_equal(first[n], again[n]) for n in first)
    assert not all(np.array_equal(first[n], other[n]) for n in first)


def test_int8_of_a_zero_row_is_zero() -> None:
    delta = {"a": np.array([[0.0, 0.0], [1.0, -1.0]], dtype=np.float32)}
    back = decode(encode(delta, "int8", _rng()), "int8", delta)
    assert np.array_equal(back["a"], delta["a"])


# ---------------------------------------------------------------- garbage
Spoil = Callable[[Params], object]


def _swap(name: str, make: Callable[[np.ndarray], object]) -> Spoil:
    def spoil(arrays: Params) -> None:
        arrays[name] = make(arrays[name])  # type: ignore[assignment]

    return spoil


def _with(value: float, at: tuple[int, ...] = (0,)) -> Callable[[np.ndarray], np.ndarray]:
    def make(array: np.ndarray) -> np.ndarray:
        out = array.copy()
        out[at] = value
        return out

    return make


GARBAGE: dict[str, tuple[deltas.Codec, Spoil, str]] = {
    "nothing at all": ("float32", dict.clear, "lacks 'blocks.0.w'"),
    "a name missing": ("float32", lambda a: a.pop("norm.bias"), "lacks 'norm.bias'"),
    "a scale missing": ("int8", lambda a: a.pop("norm.bias:scale"), "lacks 'norm.bias:scale'"),
    "a name too many": (
        "float32",
        lambda a: a.update(histories=np.zeros(3)),
        "does not have: 'histories'",
    ),
    "a scale too many": (
        "float32",
        lambda a: a.update({"norm.bias:scale": np.zeros(())}),
        "'norm.bias:scale'",
    ),
    "a hostile name": (
        "float32",
        lambda a: a.update({"x\n2026 INFO all is well" + "y" * 10_000: np.zeros(1)}),
        r"'x\\n2026 INFO all is wellyyy",
    ),
    "a name that is no text": ("float32", lambda a: a.update({7: np.zeros(1)}), "'7'"),
    "another shape": (
        "float32",
        _swap("items.weight", lambda a: a[:-1]),
        r"'items.weight' has shape \(5, 4\)",
    ),
    "transposed": ("float32", _swap("items.weight", lambda a: a.T), r"has shape \(4, 6\)"),
    "one axis more": ("float32", _swap("norm.bias", lambda a: a[None]), r"has shape \(1, 4\)"),
    "a broadcastable shape": (
        "float32",
        _swap("norm.bias", lambda a: a[:1]),
        r"'norm.bias' has shape \(1,\)",
    ),
    "a scale's shape": (
        "int8",
        _swap("items.weight:scale", lambda a: a[:1]),
        "'items.weight:scale' has shape",
    ),
    "float64": ("float32", _swap("norm.bias", lambda a: a.astype("f8")), "dtype float64"),
    "big-endian": ("float32", _swap("norm.bias", lambda a: a.astype(">f4")), "dtype >f4"),
    "another codec": ("float16", _swap("norm.bias", lambda a: a.astype("f4")), "dtype float32"),
    "complex": ("float32", _swap("norm.bias", lambda a: a.astype("c8")), "dtype complex64"),
    "objects": ("float32", _swap("norm.bias", lambda a: a.astype(object)), "dtype object"),
    "text": ("float32", _swap("norm.bias", lambda a: a.astype("U8")), "dtype <U8"),
    "unsigned": ("int8", _swap("norm.bias", lambda a: a.astype("u1")), "dtype uint8"),
    "float64 scales": (
        "int8",
        _swap("items.weight:scale", lambda a: a.astype("f8")),
        "dtype float64",
    ),
    "a list": ("float32", _swap("norm.bias", lambda a: a.tolist()), "is a list"),
    "None": ("float32", _swap("norm.bias", lambda a: None), "is a NoneType"),
    "NaN": ("float32", _swap("norm.bias", _with(np.nan)), "'norm.bias' holds NaN or infinite"),
    "infinity": ("float16", _swap("norm.bias", _with(np.inf)), "holds NaN or infinite"),
    "minus infinity": ("float32", _swap("items.weight", _with(-np.inf, (5, 3))), "infinite"),
    "a NaN scale": (
        "int8",
        _swap("items.weight:scale", _with(np.nan)),
        "'items.weight:scale' holds NaN",
    ),
    "an infinite scale": ("int8", _swap("items.weight:scale", _with(np.inf)), "infinite"),
    "a negative scale": (
        "int8",
        _swap("items.weight:scale", _with(-1.0)),
        "'items.weight:scale' holds negative",
    ),
    "a scale that overflows": (
        "int8",
        _swap("items.weight:scale", _with(3e38)),
        "beyond the range of float32",
    ),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_refused_and_named(case: str) -> None:
    codec, spoil, message = GARBAGE[case]
    arrays = encode(_params(1), codec, _rng())
    decode(arrays, codec, _params())  # good so far
    spoil(arrays)
    with pytest.raises(ReplyError, match=message) as caught:
        decode(arrays, codec, _params())
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sent", CODECS)
@pytest.mark.parametrize("agreed", CODECS)
def test_another_codec_than_the_agreed_one_is_refused(
    sent: deltas.Codec, agreed: deltas.Codec
) -> None:
    if sent == agreed:
        return
    with pytest.raises(ReplyError):
        decode(encode(_params(), sent, _rng()), agreed, _params())


@pytest.mark.parametrize("codec", CODECS)
def test_a_diverged_model_is_refused_whatever_the_codec(codec: deltas.Codec) -> None:
    for bad in (np.nan, np.inf):
        delta = _params()
        delta["items.weight"][2, 1] = bad
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sent = encode(delta, codec, _rng())
        if codec == "float16" and bad == np.inf:
            continue  # saturates: large, finite, and a matter for the norm
        with pytest.raises(ReplyError, match="NaN or infinite"):
            decode(sent, codec, _params())


def test_decoding_keeps_the_models_order_whatever_the_senders() -> None:
    sent = encode(_params(1), "float32", _rng())
    shuffled = dict(sorted(sent.items(), reverse=True))
    assert list(decode(shuffled, "float32", _params())) == list(_params())


def test_absurd_norms_are_refused() -> None:
    delta = {"a": np.full(4, 3.0, dtype=np.float32)}
    assert check_norm(delta, 6.0) == pytest.approx(6.0)
    with pytest.raises(ReplyError, match=r"norm 6, more than max-delta-norm = 5.9"):
        check_norm(delta, 5.9)
    for bad in (np.nan, np.inf):
        with pytest.raises(ReplyError, match="more than max-delta-norm"):
            check_norm({"a": np.array([bad], dtype=np.float32)}, 1e30)


def test_scales_are_named_after_their_array() -> None:
    assert set(encode(_params(), "int8", _rng())) == set(_params()) | {n + SCALE for n in _params()}
