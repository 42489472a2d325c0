"""How a delta looks on the wire: encode at the node, check and decode at the server.

============= ==========================================================================
float32       as is
float16       half the bytes; round to nearest
int8          a quarter: one scale a row (last axis), values rounded stochastically, so that
              the mean over nodes is unbiased
top-rows      float32, but of the item table only the rows that moved furthest
top-rows-int8 the same rows in int8
============= ==========================================================================

Arrays have the global model's names and shapes. Beside them travel, where the codec needs them::

    :scales            int16 [rows of all arrays, in the model's order]: the upper half of a float32
                       (bfloat16), rounded up; a float32 a row would cost 6 % of an int8 delta
    items.weight:rows  int32 [K], strictly rising; ``items.weight`` is then [K, D]

K is fixed by the configuration and the catalog, so the number of rows tells nothing. *Which* rows
travel tells a lot: see docs/privacy.md.
"""

import math
from collections.abc import Mapping

import numpy as np

from lumos_core.config import Codec
from lumos_core.errors import ReplyError
from lumos_core.learning.parameters import ITEM_TABLE, Params

SCALES = ":scales"
ROWS = ":rows"

_Layout = dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]


def encode(
    delta: Mapping[str, np.ndarray], codec: Codec, rng: np.random.Generator, share: float = 1.0
) -> Params:
    """Arrays to send.

    Args:
        delta: float32, names and shapes of the global model.
        codec: the agreed codec.
        rng: draws the stochastic rounding of int8.
        share: of the rows of the item table that the top-rows codecs send, in (0, 1].
    """
    arrays, chosen = dict(delta), {}
    if _by_rows(codec) and ITEM_TABLE in arrays:
        rows = _largest_rows(arrays[ITEM_TABLE], share)
        arrays[ITEM_TABLE] = arrays[ITEM_TABLE][rows]
        chosen = {ITEM_TABLE + ROWS: rows.astype(np.int32)}
    if codec == "float16":
        limit = float(np.finfo(np.float16).max)
        return {n: np.clip(a, -limit, limit).astype(np.float16) for n, a in arrays.items()}
    if _quantised(codec):
        return _quantise(arrays, rng) | chosen
    return {n: np.ascontiguousarray(a, dtype=np.float32) for n, a in arrays.items()} | chosen


def decode(
    arrays: Mapping[str, np.ndarray],
    codec: Codec,
    like: Mapping[str, np.ndarray],
    share: float = 1.0,
) -> Params:
    """Check a received delta against the global model and turn it into float32.

    Args:
        arrays: what a node sent; nothing about it is taken on trust.
        codec, share: as agreed, see :func:`encode`.
        like: the global parameters; names and shapes must be theirs exactly.

    Raises:
        ReplyError: a name is missing or unknown, a shape or dtype is wrong, a value is not finite,
            a scale is negative or so large that values overflow, or row numbers do not rise
            strictly within the table.
    """
    _check_layout(arrays, _wire_layout(codec, like, share))
    if _quantised(codec):
        values = _dequantise({n: arrays[n] for n in like}, arrays[SCALES])
    else:
        values = {n: np.asarray(arrays[n], dtype=np.float32) for n in like}
    if _by_rows(codec) and ITEM_TABLE in like:
        rows = arrays[ITEM_TABLE + ROWS]
        _check_rows(rows, len(like[ITEM_TABLE]))
        table = np.zeros(like[ITEM_TABLE].shape, dtype=np.float32)
        table[rows] = values[ITEM_TABLE]
        values[ITEM_TABLE] = table
    return values


def wire_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Payload bytes of a set of arrays."""
    return sum(a.nbytes for a in arrays.values())


def is_lossless(codec: Codec) -> bool:
    """Whether everything a node has to say is sent at once."""
    return codec == "float32"


# ---------------------------------------------------------------- rows
def _by_rows(codec: Codec) -> bool:
    return codec in ("top-rows", "top-rows-int8")


def _row_count(rows: int, share: float) -> int:
    return min(max(math.ceil(share * rows - 1e-9), 1), rows)


def _largest_rows(table: np.ndarray, share: float) -> np.ndarray:
    """Numbers of the rows with the largest norm, rising. A row that diverged counts as large, so
    that the server sees, and refuses, what it would have seen of the whole table."""
    norms = np.square(table, dtype=np.float64).sum(axis=1)
    order = np.argsort(-np.nan_to_num(norms, nan=np.inf), kind="stable")
    return np.sort(order[: _row_count(len(table), share)])


def _check_rows(rows: np.ndarray, count: int) -> None:
    if (np.diff(rows.astype(np.int64)) <= 0).any():
        raise ReplyError(f"delta '{ITEM_TABLE + ROWS}' does not rise strictly")
    if len(rows) and (rows[0] < 0 or rows[-1] >= count):
        raise ReplyError(f"delta '{ITEM_TABLE + ROWS}' names rows outside 0 … {count - 1}")


# ---------------------------------------------------------------- int8
def _quantised(codec: Codec) -> bool:
    return codec in ("int8", "top-rows-int8")


def _quantise(arrays: Mapping[str, np.ndarray], rng: np.random.Generator) -> Params:
    out: Params = {}
    scales = []
    for name, array in arrays.items():
        largest = np.abs(array).max(axis=-1, initial=0.0)  # [...] without the last axis
        bits = _to_bfloat16(np.asarray(largest / 127.0, dtype=np.float32))
        scale = _from_bfloat16(bits)
        safe = np.where(scale > 0, scale, 1.0)[..., None]
        drawn = np.floor(array / safe + rng.random(array.shape)).clip(-127, 127)
        out[name] = drawn.astype(np.int8)
        scales.append(bits.ravel())
    out[SCALES] = np.concatenate(scales) if scales else np.zeros(0, np.int16)
    return out


def _dequantise(arrays: Mapping[str, np.ndarray], bits: np.ndarray) -> Params:
    """int8 [..., D] times their scales."""
    scales = _from_bfloat16(bits)
    if not np.isfinite(scales).all():
        raise ReplyError(f"delta '{SCALES}' holds NaN or infinite values")
    if (scales < 0).any():
        raise ReplyError(f"delta '{SCALES}' holds negative scales")
    if (scales > np.finfo(np.float32).max / 128).any():
        raise ReplyError(f"delta '{SCALES}' holds scales beyond the range of float32")
    out: Params = {}
    start = 0
    for name, array in arrays.items():
        end = start + math.prod(array.shape[:-1])
        scale = scales[start:end].reshape(array.shape[:-1])
        out[name] = array.astype(np.float32) * scale[..., None]
        start = end
    return out


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Non-negative float32 → the upper 16 bits as int16, rounded up, so that no value exceeds 127
    steps."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0xFFFF) >> 16).astype(np.uint16).view(np.int16)


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


# ---------------------------------------------------------------- layout
def _wire_layout(codec: Codec, like: Mapping[str, np.ndarray], share: float) -> _Layout:
    values = {"float16": np.float16, "int8": np.int8, "top-rows-int8": np.int8}
    dtype = np.dtype(values.get(codec, np.float32))
    layout: _Layout = {n: (a.shape, dtype) for n, a in like.items()}
    if _by_rows(codec) and ITEM_TABLE in like:
        count = _row_count(len(like[ITEM_TABLE]), share)
        layout[ITEM_TABLE] = ((count, *like[ITEM_TABLE].shape[1:]), dtype)
    if _quantised(codec):
        rows = sum(math.prod(shape[:-1]) for shape, _ in layout.values())
        layout[SCALES] = ((rows,), np.dtype(np.int16))
    if _by_rows(codec) and ITEM_TABLE in like:
        layout[ITEM_TABLE + ROWS] = (layout[ITEM_TABLE][0][:1], np.dtype(np.int32))
    return layout


def _check_layout(arrays: Mapping[str, np.ndarray], expected: _Layout) -> None:
    for name in sorted(expected.keys() - arrays.keys()):
        raise ReplyError(f"delta lacks '{name}'")
    for unknown in sorted(str(name) for name in arrays.keys() - expected.keys()):
        raise ReplyError(f"delta holds an array that the model does not have: {unknown[:80]!r}")
    for name, (shape, dtype) in expected.items():
        found = arrays[name]
        if not isinstance(found, np.ndarray):
            raise ReplyError(f"delta '{name}' is a {type(found).__name__}, expected an array")
        if found.shape != shape:
            raise ReplyError(f"delta '{name}' has shape {found.shape}, expected {shape}")
        if found.dtype != dtype:
            raise ReplyError(f"delta '{name}' has dtype {found.dtype}, expected {dtype}")
        if dtype.kind == "f" and not np.isfinite(found).all():
            raise ReplyError(f"delta '{name}' holds NaN or infinite values")
