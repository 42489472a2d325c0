"""Codecs: what is sent, and what is refused, by name."""

import hashlib
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from lumos_core import plugins
from lumos_core.config import RunConfig, run_keys
from lumos_core.errors import ConfigError, ReplyError
from lumos_core.learning.model import get_params, new_model
from lumos_core.learning.parameters import Params
from lumos_core.wire.codecs import CODECS, codec, wire_bytes
from lumos_core.wire.row_choice import ROWS
from lumos_core.wire.value_formats import SCALES


def _params(seed: int = 0, size: float = 1.0) -> Params:
    rng = np.random.default_rng(seed)
    shapes = {"items.weight": (6, 4), "blocks.0.w": (2, 3, 4), "norm.bias": (4,)}
    return {n: (size * rng.normal(size=s)).astype(np.float32) for n, s in shapes.items()}


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


def _there_and_back(delta: Params, codec_name: str, rng: np.random.Generator) -> Params:
    agreed = codec(codec_name)
    return agreed.decode(agreed.encode(delta, rng), delta)


# ---------------------------------------------------------------- the wire format
EXPECTED = {
    "float32": (
        "7f144e8343f26fd11e825807debd31fdd66fa7e4a9b4bed86c01d6f5c376b031",
        "7f144e8343f26fd11e825807debd31fdd66fa7e4a9b4bed86c01d6f5c376b031",
    ),
    "float16": (
        "06f60f04728eb651df0d02c824dca280aa0938a6814a86314a8cc4a3eef9292a",
        "91ba2c9e94dc3d96610375757966404cdb0014771058e8a72ac7c59d1c3891dc",
    ),
    "int8": (
        "55c9724e9247090667716639db2cd8d26df5d5bd459ff55c30356a585c2c6dd3",
        "3264e64b1555bbd2291c974814471a99a6d233766c58fc011aaab21c2b42316b",
    ),
    "top-rows": (
        "828616738bc08642cf103c5dae678c1fffba0f934ae8fb8a724a770e0fdf45d8",
        "101963be515188fc127427c0058e1a3bae38d9d590f1aad12f53b7d5459a8151",
    ),
    "top-rows-int8": (
        "a5670f9ead0e689c806a3fe147f4d2aed146ec91240cf1bd1ce332cb99ff115a",
        "14667b1a9a6387cb077d310628bba22b3411d5a148d3562303033ae380c61b1f",
    ),
}
"""SHA-256 of what is sent and of what is read back, as of version 0.1.0."""


def _exact_params() -> Params:
    """Values that every machine computes alike: whole numbers over a power of two."""
    rng = np.random.default_rng(0)
    return {
        n: (rng.integers(-100_000, 100_001, size=a.shape) / 65_536).astype(np.float32)
        for n, a in _params().items()
    }


def _digest(arrays: Params) -> str:
    """Of names, dtypes, shapes, bytes, in order."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("codec_name", EXPECTED)
def test_the_wire_format_is_the_one_that_deployed_nodes_speak(codec_name: str) -> None:
    agreed, delta = codec(codec_name), _exact_params()
    sent = agreed.encode(delta, _rng(), share=0.5)
    back = agreed.decode(sent, delta, share=0.5)
    assert (_digest(sent), _digest(back)) == EXPECTED[codec_name]


# ---------------------------------------------------------------- the registry
def test_every_codec_of_the_configuration_is_there_under_its_name() -> None:
    assert tuple(CODECS) == run_keys.CODECS
    assert [made.name for made in CODECS.values()] == list(CODECS)
    assert all(codec(name) is CODECS[name] for name in CODECS)


def test_an_unknown_codec_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"codec 'zip': neither LUMOS nor an installed package"):
        codec("zip")


def test_float32_alone_sends_all_at_once() -> None:
    assert [name for name in CODECS if codec(name).lossless] == ["float32"]


@pytest.mark.parametrize("codec_name", CODECS)
def test_a_model_without_an_item_table_is_sent_whole(codec_name: str) -> None:
    delta = {"norm.bias": np.array([0.0, 127.0, -127.0], dtype=np.float32)}
    agreed = codec(codec_name)
    sent = agreed.encode(delta, _rng(), share=0.1)
    assert set(sent) - {SCALES} == {"norm.bias"}
    assert np.array_equal(agreed.decode(sent, delta, share=0.1)["norm.bias"], delta["norm.bias"])


@pytest.mark.parametrize("codec_name", CODECS)
def test_the_delta_is_left_as_it_is(codec_name: str) -> None:
    delta, before = _params(), _params()
    codec(codec_name).encode(delta, _rng(), share=0.5)
    assert list(delta) == list(before)
    assert all(np.array_equal(delta[n], before[n]) for n in before)


# ---------------------------------------------------------------- what a codec promises
@pytest.mark.parametrize("codec_name", CODECS)
def test_round_trip(codec_name: str) -> None:
    delta = _params(size=0.01)
    sent = codec(codec_name).encode(delta, _rng())
    back = codec(codec_name).decode(sent, _params())
    assert list(back) == list(delta)
    for name, array in back.items():
        assert array.dtype == np.float32
        limit = {
            "float32": 0.0,
            "float16": 1e-5,
            "int8": float(np.abs(delta[name]).max()) / 126,
            "top-rows": 0.0,
            "top-rows-int8": float(np.abs(delta[name]).max()) / 126,
        }[codec_name]
        assert np.abs(array - delta[name]).max() <= limit


def test_float16_saturates_instead_of_overflowing() -> None:
    delta = {"a": np.array([1e6, -1e6], dtype=np.float32)}
    back = _there_and_back(delta, "float16", _rng())
    assert back["a"].tolist() == [65504.0, -65504.0]


def test_codecs_save_what_they_promise() -> None:
    delta = {"items.weight": _params()["items.weight"].repeat(16, axis=1)}  # [6, 64]
    sizes = {c: wire_bytes(codec(c).encode(delta, _rng(), share=0.5)) for c in CODECS}
    assert sizes == {
        "float32": 6 * 64 * 4,
        "float16": 6 * 64 * 2,
        "int8": 6 * 64 + 6 * 2,
        "top-rows": 3 * 64 * 4 + 3 * 4,
        "top-rows-int8": 3 * 64 + 3 * 2 + 3 * 4,
    }


def test_int8_messages_of_the_default_model_are_3_8_times_smaller() -> None:
    """Names, ``.npy`` headers and scales included; the bundled catalog, the smallest we ship."""
    from lumos_core.flower.records import record_bytes, to_record

    delta = get_params(new_model(RunConfig(), 1482))
    sizes = {
        c: record_bytes(to_record(codec(c).encode(delta, _rng()))) for c in ("float32", "int8")
    }
    assert sizes["float32"] / sizes["int8"] >= 3.8


def test_int8_rounding_is_unbiased() -> None:
    delta = {"a": np.array([[0.5, 1.0, -0.123, 0.0049, 0.0]], dtype=np.float32)}
    rng = _rng()
    draws = np.stack([_there_and_back(delta, "int8", rng)["a"] for _ in range(4000)])
    scale = 1.0 / 127 * (1 + 2**-7)  # scales are rounded up to eight significant bits
    assert np.abs(draws - delta["a"]).max() <= scale
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (error < scale / 100).all()
    assert (np.abs(draws.mean(axis=0) - delta["a"]) <= 4 * error + 1e-6).all()
    assert draws.std(axis=0)[0, 2] > 0, "values between two steps must be rounded either way"


def test_int8_rounding_is_determined_by_its_generator() -> None:
    first, again, other = (
        codec("int8").encode(_params(), np.random.default_rng(s)) for s in (1, 1, 2)
    )
    assert all(np.array_equal(first[n], again[n]) for n in first)
    assert not all(np.array_equal(first[n], other[n]) for n in first)


def test_int8_of_a_zero_row_is_zero() -> None:
    delta = {"a": np.array([[0.0, 0.0], [127.0, -127.0]], dtype=np.float32)}
    back = _there_and_back(delta, "int8", _rng())
    assert np.array_equal(back["a"], delta["a"])


@pytest.mark.parametrize("size", [1e-37, 1e-20, 1e-3, 1e3, 1e30])
def test_int8_keeps_its_bound_at_every_size(size: float) -> None:
    """Scales are bfloat16 and no float16, which would end at 6e-8."""
    delta = {"a": _params(size=1.0)["items.weight"] * np.float32(size)}
    back = _there_and_back(delta, "int8", _rng())
    step = np.abs(delta["a"]).max(axis=1, keepdims=True) / 127 * (1 + 2**-6)
    assert (np.abs(back["a"] - delta["a"]) <= step).all()


# ---------------------------------------------------------------- rows
def test_the_rows_that_moved_most_are_sent_and_no_others() -> None:
    delta = _params()
    delta["items.weight"] *= np.array([[1], [9], [2], [7], [3], [8]], dtype=np.float32)
    norms = np.linalg.norm(delta["items.weight"], axis=1)
    sent = codec("top-rows").encode(delta, _rng(), share=0.5)
    assert set(sent[f"items.weight{ROWS}"].tolist()) == set(np.argsort(norms)[-3:].tolist())
    back = codec("top-rows").decode(sent, _params(), share=0.5)
    for row in range(6):
        kept = row in sent[f"items.weight{ROWS}"]
        expected = delta["items.weight"][row] if kept else np.zeros(4)
        assert np.array_equal(back["items.weight"][row], expected)
    assert np.array_equal(back["blocks.0.w"], delta["blocks.0.w"])


def test_the_number_of_rows_is_the_configurations_not_the_datas() -> None:
    """A node whose users touched two items sends as many rows as one whose users touched all."""
    still = {"items.weight": np.zeros((10, 2), dtype=np.float32)}
    for share, rows in ((0.01, 1), (0.25, 3), (0.7, 7), (1.0, 10)):
        sent = codec("top-rows-int8").encode(still, _rng(), share)
        assert sent["items.weight"].shape == (rows, 2)
        back = codec("top-rows-int8").decode(sent, still, share)
        assert np.array_equal(back["items.weight"], still["items.weight"])


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


TABLE_ROWS = f"items.weight{ROWS}"


GARBAGE: dict[str, tuple[str, Spoil, str]] = {
    "nothing at all": ("float32", dict.clear, "lacks 'blocks.0.w'"),
    "a name missing": ("float32", lambda a: a.pop("norm.bias"), "lacks 'norm.bias'"),
    "scales missing": ("int8", lambda a: a.pop(SCALES), "lacks ':scales'"),
    "rows missing": ("top-rows", lambda a: a.pop(TABLE_ROWS), "lacks 'items.weight:rows'"),
    "a name too many": (
        "float32",
        lambda a: a.update(histories=np.zeros(3)),
        "does not have: 'histories'",
    ),
    "scales too many": ("float32", lambda a: a.update({SCALES: np.zeros(3, "i2")}), "':scales'"),
    "rows too many": (
        "int8",
        lambda a: a.update({TABLE_ROWS: np.arange(6, dtype="i4")}),
        "'items.weight:rows'",
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
    "a scale too few": ("int8", _swap(SCALES, lambda a: a[:-1]), r"':scales' has shape \(12,\)"),
    "the whole table": (
        "top-rows",
        _swap("items.weight", lambda a: np.concatenate([a, a])),
        r"'items.weight' has shape \(12, 4\), expected \(6, 4\)",
    ),
    "float64": ("float32", _swap("norm.bias", lambda a: a.astype("f8")), "dtype float64"),
    "big-endian": ("float32", _swap("norm.bias", lambda a: a.astype(">f4")), "dtype >f4"),
    "another codec": ("float16", _swap("norm.bias", lambda a: a.astype("f4")), "dtype float32"),
    "complex": ("float32", _swap("norm.bias", lambda a: a.astype("c8")), "dtype complex64"),
    "objects": ("float32", _swap("norm.bias", lambda a: a.astype(object)), "dtype object"),
    "text": ("float32", _swap("norm.bias", lambda a: a.astype("U8")), "dtype <U8"),
    "unsigned": ("int8", _swap("norm.bias", lambda a: a.astype("u1")), "dtype uint8"),
    "float scales": ("int8", _swap(SCALES, lambda a: a.astype("f4")), "dtype float32"),
    "64-bit rows": ("top-rows", _swap(TABLE_ROWS, lambda a: a.astype("i8")), "dtype int64"),
    "float rows": ("top-rows", _swap(TABLE_ROWS, lambda a: a.astype("f4")), "dtype float32"),
    "a list": ("float32", _swap("norm.bias", lambda a: a.tolist()), "is a list"),
    "None": ("float32", _swap("norm.bias", lambda a: None), "is a NoneType"),
    "NaN": ("float32", _swap("norm.bias", _with(np.nan)), "'norm.bias' holds NaN or infinite"),
    "infinity": ("float16", _swap("norm.bias", _with(np.inf)), "holds NaN or infinite"),
    "minus infinity": ("float32", _swap("items.weight", _with(-np.inf, (5, 3))), "infinite"),
    "a NaN scale": ("int8", _swap(SCALES, _with(0x7FC0)), "':scales' holds NaN"),
    "an infinite scale": ("int8", _swap(SCALES, _with(0x7F80)), "infinite"),
    "a negative scale": ("int8", _swap(SCALES, _with(-0x4080)), "':scales' holds negative"),
    "a scale that overflows": ("int8", _swap(SCALES, _with(0x7F61)), "beyond the range of float32"),
    "a row twice": ("top-rows", _swap(TABLE_ROWS, _with(1)), "does not rise strictly"),
    "rows in another order": ("top-rows", _swap(TABLE_ROWS, lambda a: a[::-1]), "does not rise"),
    "a row before the first": ("top-rows-int8", _swap(TABLE_ROWS, _with(-1)), "outside 0 … 5"),
    "a row after the last": ("top-rows", _swap(TABLE_ROWS, _with(6, (5,))), "outside 0 … 5"),
    "a row far away": ("top-rows", _swap(TABLE_ROWS, _with(2**31 - 1, (5,))), "outside 0 … 5"),
    "a NaN among the rows": ("top-rows", _swap("items.weight", _with(np.nan)), "holds NaN"),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_refused_and_named(case: str) -> None:
    name, spoil, message = GARBAGE[case]
    agreed = codec(name)
    arrays = agreed.encode(_params(1), _rng())
    agreed.decode(arrays, _params())  # good so far
    spoil(arrays)
    with pytest.raises(ReplyError, match=message) as caught:
        agreed.decode(arrays, _params())
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sent", CODECS)
@pytest.mark.parametrize("agreed", CODECS)
def test_another_codec_than_the_agreed_one_is_refused(sent: str, agreed: str) -> None:
    if sent == agreed:
        return
    with pytest.raises(ReplyError):
        codec(agreed).decode(codec(sent).encode(_params(), _rng()), _params())


@pytest.mark.parametrize("codec_name", CODECS)
def test_a_diverged_model_is_refused_whatever_the_codec(codec_name: str) -> None:
    for bad in (np.nan, np.inf):
        delta = _params()
        delta["items.weight"][2, 1] = bad
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sent = codec(codec_name).encode(delta, _rng())
        if codec_name == "float16" and bad == np.inf:
            continue  # saturates: large, finite, and a matter for the norm
        with pytest.raises(ReplyError, match="NaN or infinite"):
            codec(codec_name).decode(sent, _params())


def test_decoding_keeps_the_models_order_whatever_the_senders() -> None:
    sent = codec("float32").encode(_params(1), _rng())
    shuffled = dict(sorted(sent.items(), reverse=True))
    assert list(codec("float32").decode(shuffled, _params())) == list(_params())


def test_names_beside_the_models_are_few() -> None:
    assert set(codec("int8").encode(_params(), _rng())) == {*_params(), SCALES}
    assert set(codec("top-rows-int8").encode(_params(), _rng())) == {*_params(), SCALES, TABLE_ROWS}


class Careless:
    """A codec of somebody else, which checks nothing."""

    name, lossless = "careless", False

    def encode(self, delta, rng, share=1.0):
        return dict(delta)

    def decode(self, arrays, like, share=1.0):
        return {name: arrays[name] / arrays["scale"][0] for name in like}


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"a": np.ones(3, np.float32)}, "cannot be decoded by 'careless': KeyError"),
        ({"a": np.ones(2, np.float32), "scale": np.ones(1, np.float32)}, "has shape"),
        ({"a": np.ones(3, np.float64), "scale": np.ones(1)}, "has dtype"),
        ({"a": np.ones(3, np.float32), "scale": np.zeros(1, np.float32)}, "NaN or infinite"),
    ],
)
def test_what_a_plugin_decodes_is_checked(monkeypatch, sent, told):
    monkeypatch.setattr(plugins, "load", lambda kind, name: Careless())
    with np.errstate(divide="ignore"), pytest.raises(ReplyError, match=told):
        codec("careless").decode(sent, {"a": np.zeros(3, np.float32)})
    whole = {"a": np.ones(3, np.float32), "scale": np.full(1, 2, np.float32)}
    found = codec("careless").decode(whole, {"a": np.zeros(3, np.float32)})
    assert found["a"].tolist() == [0.5, 0.5, 0.5]
