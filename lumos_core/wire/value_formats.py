"""The formats in which a delta's values are stored on the wire: the second half of a codec.

A format gets arrays in the model's order, with the rows that were chosen before
(:mod:`lumos_core.wire.row_choice`), and may send arrays of its own in addition.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from lumos_core.errors import ReplyError
from lumos_core.learning.parameters import Params
from lumos_core.wire.array_layout import Layout, Shape

SCALES = ":scales"
"""The scales of int8: int16 [rows of all arrays, in the model's order]."""


class ValueFormat(ABC):
    """Stores float32 arrays and reads them back."""

    dtype: np.dtype[np.generic]
    """The type on the wire of every array of the model."""
    exact: bool
    """Whether the values read back equal the stored ones bit by bit."""

    @abstractmethod
    def store(self, arrays: Mapping[str, np.ndarray], rng: np.random.Generator) -> Params:
        """The arrays to send: the given ones in their order, then the format's own."""

    def beside(self, shapes: Mapping[str, Shape]) -> Layout:
        """Layout of the format's own arrays, for arrays of the given shapes."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray], beside: Mapping[str, np.ndarray]) -> Params:
        """The stored values as float32.

        Args:
            arrays: the model's arrays, in its order; layout checked.
            beside: a mapping that holds the format's own arrays; layout checked as well.

        Raises:
            ReplyError: one of the format's own arrays has values that :meth:`store` never writes.
        """
        return {n: np.asarray(a, dtype=np.float32) for n, a in arrays.items()}


class Float32(ValueFormat):
    """Values are not changed."""

    dtype = np.dtype(np.float32)
    exact = True

    def store(self, arrays: Mapping[str, np.ndarray], rng: np.random.Generator) -> Params:
        return {n: np.ascontiguousarray(a, dtype=np.float32) for n, a in arrays.items()}


class Float16(ValueFormat):
    """Values are rounded to the nearest float16; those out of its range become its largest number,
    with their sign."""

    dtype = np.dtype(np.float16)
    exact = False

    def store(self, arrays: Mapping[str, np.ndarray], rng: np.random.Generator) -> Params:
        limit = float(np.finfo(np.float16).max)
        return {n: np.clip(a, -limit, limit).astype(np.float16) for n, a in arrays.items()}


class Int8(ValueFormat):
    """One scale per row (last axis); values are rounded stochastically, so that the mean over nodes
    is unbiased. Scales are bfloat16, because a float32 per row would cost 6 % of a delta."""

    dtype = np.dtype(np.int8)
    exact = False

    def store(self, arrays: Mapping[str, np.ndarray], rng: np.random.Generator) -> Params:
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

    def beside(self, shapes: Mapping[str, Shape]) -> Layout:
        rows = sum(math.prod(shape[:-1]) for shape in shapes.values())
        return {SCALES: ((rows,), np.dtype(np.int16))}

    def restore(self, arrays: Mapping[str, np.ndarray], beside: Mapping[str, np.ndarray]) -> Params:
        scales = _from_bfloat16(beside[SCALES])
        _check_scales(scales)
        out: Params = {}
        start = 0
        for name, array in arrays.items():
            end = start + math.prod(array.shape[:-1])
            scale = scales[start:end].reshape(array.shape[:-1])
            out[name] = array.astype(np.float32) * scale[..., None]
            start = end
        return out


def _check_scales(scales: np.ndarray) -> None:
    if not np.isfinite(scales).all():
        raise ReplyError(f"delta '{SCALES}' holds NaN or infinite values")
    if (scales < 0).any():
        raise ReplyError(f"delta '{SCALES}' holds negative scales")
    if (scales > np.finfo(np.float32).max / 128).any():
        raise ReplyError(f"delta '{SCALES}' holds scales beyond the range of float32")


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Non-negative float32 → its upper 16 bits as int16, rounded up, so that no value of a row is
    larger than 127 times the row's scale."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0xFFFF) >> 16).astype(np.uint16).view(np.int16)


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
