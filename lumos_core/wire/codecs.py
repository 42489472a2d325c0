"""Codecs: how a delta is encoded at the node, and checked and decoded at the server.

============= ==========================================================================
float32       unchanged
float16       half the bytes; rounded to nearest
int8          a quarter of the bytes: one scale per row (last axis), values rounded
              stochastically, so that the mean over nodes is unbiased
top-rows      float32, but of the item table only the rows that moved furthest
top-rows-int8 the same rows in int8
============= ==========================================================================

A codec combines two choices: which rows are sent (:mod:`lumos_core.wire.row_choice`) and how values
are stored (:mod:`lumos_core.wire.value_formats`).

Arrays have the global model's names and shapes. If the codec needs them, these are sent, too::

    :scales            int16 [rows of all arrays, in the model's order]: the upper half of a float32
                       (bfloat16), rounded up; a float32 per row would cost 6 % of an int8 delta
    items.weight:rows  int32 [K], strictly rising; ``items.weight`` is then [K, D]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lumos_core import plugins
from lumos_core.errors import ReplyError
from lumos_core.learning.parameters import Params
from lumos_core.wire.array_layout import Layout, check_layout
from lumos_core.wire.row_choice import AllRows, RowChoice, TopRows
from lumos_core.wire.value_formats import Float16, Float32, Int8, ValueFormat


class Codec(Protocol):
    """Encodes a delta as arrays to send, and decodes received arrays to a delta."""

    @property
    def name(self) -> str:
        """Its name as a value of the configuration key ``delta-codec``."""
        ...

    @property
    def lossless(self) -> bool:
        """Whether the decoded delta equals the encoded one, so that nothing is left to send."""
        ...

    def encode(
        self, delta: Mapping[str, np.ndarray], rng: np.random.Generator, share: float = 1.0
    ) -> Params:
        """The arrays to send.

        Args:
            delta: float32, names and shapes of the global model; it is not changed.
            rng: the only source of randomness, so that a repeated round sends the same bytes.
            share: the share of the item table's rows that the top-rows codecs send, in (0, 1].
        """
        ...

    def decode(
        self,
        arrays: Mapping[str, np.ndarray],
        like: Mapping[str, np.ndarray],
        share: float = 1.0,
    ) -> Params:
        """Check a received delta against the global model and turn it into float32.

        Args:
            arrays: what a node sent; nothing about it is trusted.
            like: the global parameters; the delta must have exactly their names and shapes.
            share: the run's, see :meth:`encode`.

        Returns:
            Finite float32 arrays with the names, order and shapes of ``like``.

        Raises:
            ReplyError: a name is missing or unknown, a shape or dtype is wrong, a value is not
                finite, a scale is negative or so large that values overflow, or row numbers do not
                rise strictly within the table.
        """
        ...


@dataclass(frozen=True)
class RowsAndValues:
    """The codec made of a choice of rows and a format of values."""

    name: str
    rows: RowChoice
    values: ValueFormat

    @property
    def lossless(self) -> bool:
        return self.rows.all_rows and self.values.exact

    def encode(
        self, delta: Mapping[str, np.ndarray], rng: np.random.Generator, share: float = 1.0
    ) -> Params:
        chosen, beside = self.rows.choose(delta, share)
        return self.values.store(chosen, rng) | beside

    def decode(
        self,
        arrays: Mapping[str, np.ndarray],
        like: Mapping[str, np.ndarray],
        share: float = 1.0,
    ) -> Params:
        shapes = self.rows.shapes(like, share)
        values = {name: (shape, self.values.dtype) for name, shape in shapes.items()}
        check_layout(arrays, values | self.values.beside(shapes) | self.rows.beside(like, share))
        chosen = self.values.restore({name: arrays[name] for name in like}, arrays)
        return self.rows.place(chosen, arrays, like)


@dataclass(frozen=True)
class CheckedCodec:
    """A plug-in's codec, with checks that do not rely on its own: the decoded delta has the model's
    names and shapes and is finite, or a :class:`~lumos_core.errors.ReplyError` is raised."""

    codec: Codec

    @property
    def name(self) -> str:
        return self.codec.name

    @property
    def lossless(self) -> bool:
        return self.codec.lossless

    def encode(
        self, delta: Mapping[str, np.ndarray], rng: np.random.Generator, share: float = 1.0
    ) -> Params:
        return self.codec.encode(delta, rng, share)

    def decode(
        self,
        arrays: Mapping[str, np.ndarray],
        like: Mapping[str, np.ndarray],
        share: float = 1.0,
    ) -> Params:
        try:
            decoded = self.codec.decode(arrays, like, share)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ReplyError(
                f"delta cannot be decoded by {self.name!r}: {type(error).__name__}"
            ) from error
        layout: Layout = {n: (array.shape, np.dtype(np.float32)) for n, array in like.items()}
        check_layout(decoded, layout)
        return {name: decoded[name] for name in like}


CODECS: dict[str, Codec] = {
    made.name: made
    for made in (
        RowsAndValues("float32", AllRows(), Float32()),
        RowsAndValues("float16", AllRows(), Float16()),
        RowsAndValues("int8", AllRows(), Int8()),
        RowsAndValues("top-rows", TopRows(), Float32()),
        RowsAndValues("top-rows-int8", TopRows(), Int8()),
    )
}


def codec(name: str) -> Codec:
    """The codec of a name: LUMOS's own, or a plug-in's.

    Raises:
        ConfigError: neither has a codec of this name.
    """
    return CODECS[name] if name in CODECS else CheckedCodec(plugins.load("codec", name))


def wire_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Payload bytes of a set of arrays."""
    return sum(a.nbytes for a in arrays.values())
