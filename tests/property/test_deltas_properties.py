"""Deltas through every codec, for all values."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lumos_core.errors import ReplyError
from lumos_core.learning.parameters import ITEM_TABLE, Params
from lumos_core.wire import deltas
from lumos_core.wire.codecs import CODECS, codec
from lumos_core.wire.row_choice import ROWS
from lumos_core.wire.value_formats import SCALES

shapes = st.one_of(
    st.tuples(st.integers(1, 5)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
)
# Subnormal values have no room for a scale 127 times smaller; no training ever gets there.
values = st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30)
arrays = shapes.flatmap(lambda s: hnp.arrays(np.float32, s, elements=values))
models = st.dictionaries(st.text(st.characters(codec="ascii"), max_size=8), arrays, max_size=3)
names = st.one_of(
    st.sampled_from(["items.weight", "b", ":scales", "items.weight:rows"]), st.text(max_size=5)
)
seeds = st.integers(0, 2**32 - 1)


def _plain(model: Params) -> Params:
    return {n: a for n, a in model.items() if n not in ("", SCALES)}


def _there_and_back(model: Params, codec_name: str, rng: np.random.Generator) -> Params:
    agreed = codec(codec_name)
    return agreed.decode(agreed.encode(model, rng), model)


@given(models, seeds)
def test_every_codec_keeps_its_error_bound(model: Params, seed: int) -> None:
    model = _plain(model)
    rng = np.random.default_rng(seed)
    exact = _there_and_back(model, "float32", rng)
    assert all(np.array_equal(exact[n], model[n]) for n in model)

    half = _there_and_back(model, "float16", rng)
    for name, array in model.items():
        limited = np.clip(array, -65504, 65504)
        assert (np.abs(half[name] - limited) <= np.abs(limited) * 2.0**-11 + 6e-8).all()

    sent = codec("int8").encode(model, rng)
    back = codec("int8").decode(sent, model)
    for name, array in model.items():
        scale = np.abs(array).max(axis=-1, keepdims=True, initial=0.0) / 127 * (1 + 2**-6)
        assert (np.abs(back[name] - array) <= scale).all()
        assert back[name].shape == array.shape


@given(models, seeds)
def test_adding_a_delta_gives_the_local_model(received: Params, seed: int) -> None:
    rng = np.random.default_rng(seed)
    local = {n: a + rng.normal(size=a.shape).astype(np.float32) for n, a in received.items()}
    delta = deltas.subtract(local, received)
    again = deltas.add(received, delta)
    assert list(again) == list(received)
    for name in received:
        np.testing.assert_allclose(again[name], local[name], rtol=1e-5, atol=1e-5)


@given(
    st.dictionaries(
        names,
        st.one_of(
            hnp.arrays(
                st.one_of(
                    hnp.floating_dtypes(),
                    hnp.integer_dtypes(),
                    hnp.complex_number_dtypes(),
                    st.just(np.dtype(object)),
                    hnp.unicode_string_dtypes(max_len=3),
                ),
                hnp.array_shapes(min_dims=0, max_dims=3, max_side=3),
            ),
            st.none(),
            st.floats(),
            st.lists(st.integers(), max_size=2),
        ),
        max_size=4,
    ),
    st.sampled_from(sorted(CODECS)),
)
def test_decode_takes_nothing_but_finite_arrays_of_the_model(
    garbage: Params, codec_name: str
) -> None:
    like = {"items.weight": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}
    try:
        found = codec(codec_name).decode(garbage, like)
    except ReplyError:
        return
    assert list(found) == ["items.weight", "b"]
    for name, array in found.items():
        assert array.shape == like[name].shape
        assert array.dtype == np.float32
        assert np.isfinite(array).all()


@given(models, st.floats(1e-6, 1e6), seeds)
def test_clipping_never_exceeds_its_limit(model: Params, limit: float, seed: int) -> None:
    short = deltas.clip(model, limit)
    assert deltas.norm(short) <= limit
    assert {n: a.shape for n, a in short.items()} == {n: a.shape for n, a in model.items()}


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 4)), elements=values),
    st.floats(0.01, 1.0),
    seeds,
)
def test_rows_that_are_not_sent_are_no_larger_than_those_that_are(
    table: np.ndarray, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sent = codec("top-rows").encode({ITEM_TABLE: table}, rng, share)
    rows = sent[ITEM_TABLE + ROWS]
    norms = np.square(table, dtype=np.float64).sum(axis=1)
    rest = np.delete(norms, rows)
    assert not len(rest) or norms[rows].min() >= rest.max()
    back = codec("top-rows").decode(sent, {ITEM_TABLE: table}, share)[ITEM_TABLE]
    assert np.array_equal(back[rows], table[rows])
    assert not np.delete(back, rows, axis=0).any()
