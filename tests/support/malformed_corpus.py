"""Replies to a train instruction that are not what was asked for: more than a hundred, by hand.

Each is a function from a good reply's delta and metrics to the content of a bad one.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from lumos_core.flower import records
from lumos_core.wire.reply_checks import COUNTS, TRAIN_METRICS

Delta = dict[str, np.ndarray]
Metrics = dict[str, Any]
Bad = Callable[[Delta, Metrics], RecordDict]
TABLE = "items.weight"


def npy(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _content(delta: Delta, metrics: Metrics) -> RecordDict:
    """Unlike the node's own function this takes any metric that Flower can carry."""
    return RecordDict({"delta": records.to_record(delta), "metrics": MetricRecord(metrics)})


def _array(change: Callable[[np.ndarray], np.ndarray], name: str = TABLE) -> Bad:
    return lambda d, m: _content({**d, name: change(d[name])}, m)


def _raw(data: Callable[[bytes], bytes], stype: str = "numpy.ndarray", **facts: Any) -> Bad:
    """The bytes of the item table changed."""

    def bad(delta: Delta, metrics: Metrics) -> RecordDict:
        table = delta[TABLE]
        told = {"dtype": str(table.dtype), "shape": table.shape, **facts}
        record = records.to_record(delta)
        record[TABLE] = Array(stype=stype, data=data(npy(table)), **told)
        return RecordDict({"delta": record, "metrics": MetricRecord(metrics)})

    return bad


def _metric(name: str, value: Any) -> Bad:
    return lambda d, m: _content(d, {**m, name: value})


def _with(index: tuple[int, ...], value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[index] = value
        return array

    return change


def _without(name: str) -> Bad:
    return lambda d, m: _content({n: a for n, a in d.items() if n != name}, m)


def _records(**records: Any) -> Bad:
    """A good reply with records added, replaced or (None) left out."""

    def bad(delta: Delta, metrics: Metrics) -> RecordDict:
        both = {**_content(delta, metrics), **records}
        return RecordDict({n: r for n, r in both.items() if r is not None})

    return bad


def corpus(names: list[str]) -> dict[str, Bad]:
    """By what is wrong; ``names`` are those of the model's arrays."""
    bad: dict[str, Bad] = {
        # --- records
        "nothing at all": lambda d, m: RecordDict(),
        "no delta": _records(delta=None),
        "no metrics": _records(metrics=None),
        "a record too many": _records(history=ConfigRecord({"items": [4, 8, 15]})),
        "a second delta": lambda d, m: RecordDict(
            {**_content(d, m), "delta2": records.to_record(d)}
        ),
        "delta is a config": _records(delta=ConfigRecord({"w": [0.0]})),
        "delta is metrics": _records(delta=MetricRecord({"w": 0.0})),
        "metrics are a config": _records(metrics=ConfigRecord({"users": 1})),
        "metrics are arrays": lambda d, m: RecordDict(
            {"delta": records.to_record(d), "metrics": records.to_record(d)}
        ),
        "names are swapped": lambda d, m: RecordDict(
            {"metrics": records.to_record(d), "delta": MetricRecord(m)}
        ),
        "other case": lambda d, m: RecordDict(
            {"Delta": records.to_record(d), "metrics": MetricRecord(m)}
        ),
        "a description": lambda d, m: records.encode_describe({"name": "node-0"}),
        "an evaluation": lambda d, m: records.encode_metrics({"eval-users": 3}),
        "an order": lambda d, m: RecordDict({"instruction": ConfigRecord({"round": 1})}),
        "no arrays": _records(delta=ArrayRecord({})),
        "no numbers": _records(metrics=MetricRecord({})),
        "terminal escapes": lambda d, m: RecordDict({"\x1b[2J\x1b]0;x\x07": ConfigRecord({})}),
        "a long name": _records(**{"x" * 5000: ConfigRecord({})}),
        "a thousand records": _records(**{f"r{i}": ConfigRecord({}) for i in range(1000)}),
        # --- error replies
        "a failure": lambda d, m: records.encode_error("bad-data"),
        "a failure of another": lambda d, m: records.encode_error("bad-data", "node-0"),
        "a failure beside a delta": _records(error=ConfigRecord({"code": "bad-data"})),
        "a failure that is an exception": _records(
            error=ConfigRecord({"code": "KeyError: '/home/anna/u17'\nTraceback"})
        ),
        "a failure that is a number": _records(error=ConfigRecord({"code": 7})),
        "a failure without a code": _records(error=ConfigRecord({})),
        # --- arrays as such
        "an array too many": lambda d, m: _content({**d, "extra": np.ones(3, "f4")}, m),
        "an array named like a path": lambda d, m: _content({**d, "../../x": np.ones(1, "f4")}, m),
        "an array with a long name": lambda d, m: _content({**d, "y" * 4000: np.ones(1, "f4")}, m),
        "scales that nobody asked for": lambda d, m: _content(
            {**d, TABLE + ":scale": d[TABLE][:, 0]}, m
        ),
        "rows that nobody asked for": lambda d, m: _content(
            {**d, TABLE + ":rows": np.arange(3, dtype="i4")}, m
        ),
        "one row fewer": _array(lambda a: a[:-1]),
        "one row more": _array(lambda a: np.concatenate([a, a[:1]])),
        "one column fewer": _array(lambda a: np.ascontiguousarray(a[:, :-1])),
        "transposed": _array(lambda a: np.ascontiguousarray(a.T)),
        "flat": _array(lambda a: a.ravel()),
        "an axis more": _array(lambda a: a[None]),
        "a single number": _array(lambda a: np.array(1.0, np.float32)),
        "empty array": _array(lambda a: a[:0]),
        **{f"as {t}": _array(lambda a, t=t: a.astype(t)) for t in (  # type: ignore[misc]
            "f8", "f2", "i1", "u1", "i4", "i8", "c8", "?", ">f4", "U8")},
        "NaN everywhere": _array(lambda a: np.full_like(a, np.nan)),
        "one NaN": _array(_with((1, 1), np.nan)),
        "one NaN in padding": _array(_with((0, 0), np.nan)),
        "infinity": _array(_with((1, 1), np.inf)),
        "minus infinity": _array(_with((1, 1), -np.inf)),
        "absurdly large": _array(lambda a: np.full_like(a, 3e38)),
        "one absurd value": _array(_with((1, 1), 1e30)),
        "a hundred thousand times too far": _array(lambda a: a * np.float32(1e5) + np.float32(1e4)),
        # --- bytes
        "no bytes": _raw(lambda b: b""),
        "half the bytes": _raw(lambda b: b[: len(b) // 2]),
        "a byte fewer": _raw(lambda b: b[:-1]),
        "a byte more": _raw(lambda b: b + b"\0"),
        "zeros": _raw(lambda b: b"\0" * len(b)),
        "text": _raw(lambda b: b"<html>504</html>"),
        "only the magic": _raw(lambda b: b[:6]),
        "an unknown version": _raw(lambda b: b[:6] + b"\x09\x09" + b[8:]),
        "version three": _raw(lambda b: b[:6] + b"\x03\x00" + b[8:]),
        "a header cut short": _raw(lambda b: b[:40]),
        "a header of code": _raw(
            lambda b: b[:10] + b"__import__('os').abort()".ljust(len(b) - 10)[: len(b) - 10]
        ),
        "a header that promises terabytes": _raw(
            lambda b: b[:8] + _header("{'descr': '<f4', 'fortran_order': False, "
                                      "'shape': (999999999, 99999), }")
        ),
        "a header with a negative shape": _raw(
            lambda b: b[:8] + _header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }")
        ),
        "a header of another type": _raw(
            lambda b: b[:8] + _header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }")
        ),
        "a header of lists": _raw(lambda b: b[:8] + _header("[1, 2, 3]")),
        "a deep header": _raw(lambda b: b[:8] + _header("(" * 4000 + ")" * 4000)),
        "a header that does not close": _raw(lambda b: b[:8] + _header("(((")),
        "a header with half a text": _raw(lambda b: b[:8] + _header("'''abc")),
        "a header without a type": _raw(
            lambda b: b[:8] + _header("{'descr': (), 'fortran_order': False, 'shape': (1,), }")
        ),
        "a header with half a type": _raw(
            lambda b: b[:8]
            + _header("{'descr': ('<f4',), 'fortran_order': False, 'shape': (1,), }")
        ),
        "a pickle": _raw(lambda b: npy(np.array([{"a": 1}], dtype=object))),
        "an announced pickle": _raw(lambda b: b"cos\nsystem\n(S'true'\ntR.", stype="pickle"),
        "torch bytes": _raw(lambda b: b, stype="torch.Tensor"),
        "no serialisation named": _raw(lambda b: b, stype=""),
        # --- numbers
        "a metric too many": _metric("user-ids", 17),
        "an evaluation that nobody asked for": _metric("eval-users", 3.0),
        "a metric with a long name": _metric("z" * 4000, 1),
        "a metric with an escape": _metric("\x1b[2J", 1),
        "a delta of nobody": _metric("users", 0),
    }  # fmt: skip
    for name in names:
        bad[f"without {name}"] = _without(name)
        bad[f"NaN in {name}"] = _array(lambda a: np.full_like(a, np.nan), name)
        bad[f"{name} of another shape"] = _array(lambda a: np.zeros((3, 1, 2), np.float32), name)
    for metric in sorted(TRAIN_METRICS):
        bad[f"without {metric}"] = lambda d, m, k=metric: _content(  # type: ignore[misc]
            d, {n: v for n, v in m.items() if n != k}
        )
        for value in (float("nan"), float("inf"), -1.0, 1e12, [1.0, 2.0]):
            bad[f"{metric} = {value}"] = _metric(metric, value)
        if metric in COUNTS:
            bad[f"{metric} = 2.5"] = _metric(metric, 2.5)
    return bad


def _header(text: str) -> bytes:
    raw = text.encode().ljust(len(text) + 1)
    return len(raw).to_bytes(2, "little") + raw
