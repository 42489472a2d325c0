"""The wire format, and everything that is not it."""

from io import BytesIO

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from lumos_core.errors import ReplyError
from lumos_core.flower import records
from lumos_core.flower.records import Order
from lumos_core.views.titles.artefact_pieces import Offered, Piece

RNG = np.random.default_rng(0)
DELTA = {
    "items.weight": RNG.normal(size=(5, 4)).astype(np.float32),
    "scale": np.float32(3).reshape(()),
    "quantised": RNG.integers(-9, 9, (3, 2)).astype(np.int8),
    "half": RNG.normal(size=3).astype(np.float16),
}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(
        found[n].dtype == a.dtype and found[n].shape == a.shape and (found[n] == a).all()
        for n, a in expected.items()
    )


@pytest.mark.parametrize("split", [None, "validation", "test"])
def test_an_order_arrives_as_it_was_given(split):
    sent = Order({"w": DELTA["items.weight"]}, 7, split, "abc")
    found = records.decode_order(records.encode_order(sent))
    assert found[1:] == sent[1:]
    assert found.params is not None
    assert same(found.params, {"w": DELTA["items.weight"]})


def test_an_order_without_a_model():
    sent = Order(None, 0, None, "")
    content = records.encode_order(sent)
    assert list(content) == ["instruction"]
    assert records.decode_order(content) == sent


def test_a_train_reply_is_one_delta_and_one_record_of_numbers():
    content = records.encode_train(DELTA, {"users": 3, "loss": np.float64(1.5)})
    assert {n: type(r) for n, r in content.items()} == {
        "delta": ArrayRecord,
        "metrics": MetricRecord,
    }
    arrays, metrics = records.decode_train(content)
    assert same(arrays, DELTA)
    assert metrics == {"users": 3, "loss": 1.5}
    assert type(metrics["users"]) is int


def test_evaluate_and_describe_replies():
    assert records.decode_metrics(records.encode_metrics({"eval-users": 4})) == {"eval-users": 4}
    facts = {"name": "node-1", "users": "12"}
    assert records.decode_describe(records.encode_describe(facts)) == facts


def test_an_error_is_a_code_and_nothing_else():
    assert records.decode_error(records.encode_error("bad-data", "n")) == ("bad-data", "n")
    assert records.decode_error(records.encode_error("bad-data")) == ("bad-data", "")
    assert records.decode_error(records.encode_metrics({"eval-users": 4})) is None
    smuggled = RecordDict({"error": ConfigRecord({"code": "Traceback: /home/u17\x1b[2J"})})
    assert records.decode_error(smuggled) == ("unknown", "")


def npy(shape: tuple[int, ...], payload: bytes, descr: str = "<f4") -> bytes:
    """A .npy buffer whose header announces ``shape``, whatever the payload is."""
    buffer = BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + payload


BAD_ARRAYS = {
    "empty": b"",
    "not npy": b"hello, world, this is no array",
    "header only": npy((4,), b""),
    "too short": npy((4,), b"\0" * 12),
    "too long": npy((4,), b"\0" * 20),
    "announces a terabyte": npy((1 << 38,), b"\0" * 16),
    "overflowing shape": npy((1 << 40, 1 << 40), b"\0" * 16),
    "objects": npy((1,), b"\0" * 8, "|O"),
    "text": npy((1,), b"\0" * 8, "<U2"),
    "complex": npy((1,), b"\0" * 8, "<c8"),
    "version 9": b"\x93NUMPY\x09\x00" + b"\0" * 100,
}


@pytest.mark.parametrize("data", BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_arrays_that_lie_are_refused_before_they_are_allocated(data):
    content = records.encode_train(DELTA, {"users": 1})
    content["delta"] = ArrayRecord({"w": Array("float32", (4,), "numpy.ndarray", data)})
    with pytest.raises(ReplyError, match="'w' cannot be read"):
        records.decode_train(content)


def test_other_serialisations_are_refused():
    content = records.encode_train(DELTA, {"users": 1})
    content["delta"] = ArrayRecord({"w": Array("float32", (4,), "pickle", b"cos\nsystem\n")})
    with pytest.raises(ReplyError, match="cannot be read"):
        records.decode_train(content)


GOOD = records.encode_train(DELTA, {"users": 1})
BAD_CONTENTS = {
    "nothing": {},
    "no metrics": {"delta": GOOD["delta"]},
    "no delta": {"metrics": GOOD["metrics"]},
    "a second array record": {**GOOD, "histories": GOOD["delta"]},
    "a config record": {**GOOD, "note": ConfigRecord({"items": [1, 2, 3]})},
    "a second metric record": {**GOOD, "more": MetricRecord({"a": 1})},
    "records swapped": {"delta": GOOD["metrics"], "metrics": GOOD["delta"]},
    "a list among the metrics": {**GOOD, "metrics": MetricRecord({"items": [1, 2, 3]})},
    "a metric with an endless name": {**GOOD, "metrics": MetricRecord({"x" * 5000: 1})},
}


@pytest.mark.parametrize("content", BAD_CONTENTS.values(), ids=BAD_CONTENTS.keys())
def test_train_replies_hold_exactly_what_was_agreed(content):
    with pytest.raises(ReplyError):
        records.decode_train(RecordDict(content))


@pytest.mark.parametrize(
    "values",
    [
        {"round": "1", "evaluate": "", "catalog": ""},
        {"round": 1, "evaluate": "train", "catalog": ""},
        {"round": 1, "evaluate": ""},
        {},
    ],
)
def test_malformed_instructions(values):
    with pytest.raises(ReplyError, match="instruction"):
        records.decode_order(RecordDict({"instruction": ConfigRecord(values)}))


def test_describe_replies_are_short_texts():
    for facts in ({"name": 3}, {"name": "x" * 1000}, {"n" * 1000: "x"}):
        with pytest.raises(ReplyError, match="short str"):
            records.decode_describe(RecordDict({"node": ConfigRecord(facts)}))


# ---------------------------------------------------------------- pieces of an artefact
OFFERED = Offered(9, "a model", "1/2", "products")


@pytest.mark.parametrize("piece", [None, Piece(0, b"abc"), Piece(7, b"")])
def test_an_offer_arrives_as_it_was_given(piece):
    sent = Order(None, 0, None, "c", offered=OFFERED, piece=piece)
    assert records.decode_order(records.encode_order(sent)) == sent


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0}, {"size": 2**40}, {"size": "9"}, {"size": True}, {"model": 3}, {"noun": None},
        {"recipe": "x" * 2000}, {"number": -1}, {"number": 0.5},
    ],
)  # fmt: skip
def test_an_offer_that_is_none_is_refused(change):
    content = records.encode_order(
        Order(None, 0, None, "", offered=OFFERED, piece=Piece(0, b"abc"))
    )
    values = {**content.config_records["offered"], **change}
    content["offered"] = ConfigRecord({k: v for k, v in values.items() if v is not None})
    with pytest.raises(ReplyError, match="instruction"):
        records.decode_order(content)


@pytest.mark.parametrize(
    "arrays",
    [
        {"piece": np.zeros(3, np.float32)},
        {"piece": np.zeros((1, 3), np.uint8)},
        {"other": np.zeros(3, np.uint8)},
        {"piece": np.zeros(3, np.uint8), "other": np.zeros(3, np.uint8)},
    ],
)
def test_a_piece_that_is_no_bytes_is_refused(arrays):
    content = records.encode_order(
        Order(None, 0, None, "", offered=OFFERED, piece=Piece(0, b"abc"))
    )
    content["piece"] = records.to_record(arrays)
    with pytest.raises(ReplyError, match="one row of bytes"):
        records.decode_order(content)
