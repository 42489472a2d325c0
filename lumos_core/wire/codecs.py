"""How a delta looks on the wire: encode at the node, check and decode at the server.

============= ==========================================================================
float32       as is
float16       half the bytes; round to nearest
int8          a quarter: one scale a row (last axis), values rounded stochastically, so that
              the mean over nodes is unbiased
top-rows      float32, but of the item table only the rows that moved furthest
top-rows-int8 the same rows in int8
============= ==========================================================================

Each is made of two choices: which rows travel (:mod:`lumos_core.wire.row_choice`) and how values
are stored (:mod:`lumos_core.wire.value_formats`).

Arrays have the global model's names and shapes. Beside them travel, where the codec needs them::

    :scales            int16 [rows of all arrays, in the model's order]: the upper half of a float32
                       (bfloat16), rounded up; a float32 a row would cost 6 % of an int8 delta
    items.weight:rows  int32 [K], strictly rising; ``items.weight`` is then [K, D]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lumos_core.errors import ConfigError
from lumos_core.learning.parameters import Params
from lumos_core.wire.array_layout import check_layout
from lumos_core.wire.row_choice import AllRows, RowChoice, TopRows
from lumos_core.wire.value_formats import Float16, Float32, Int8, ValueFormat


class Codec(Protocol):
    """Turns a delta into arrays to send, and what arrives back into a delta."""

    @property
    def name(self) -> str:
        """What ``delta-codec`` calls it."""
        ...

    @property
    def lossless(self) -> bool:
        """Whether everything a node has to say is sent at once."""
        ...

    def encode(
        self, delta: Mapping[str, np.ndarray], rng: np.random.Generator, share: float = 1.0
    ) -> Params:
        """Arrays to send.

        Args:
            delta: float32, names and shapes of the global model; left as it is.
            rng: the only source of chance, so that a repeated round sends the same bytes.
            share: of the rows of the item table that the top-rows codecs send, in (0, 1].
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
            arrays: what a node sent; nothing about it is taken on trust.
            like: the global parameters; names and shapes must be theirs exactly.
            share: as agreed, see :meth:`encode`.

        Returns:
            finite float32 arrays with the names, order and shapes of ``like``.

        Raises:
            ReplyError: a name is missing or unknown, a shape or dtype is wrong, a value is not
                finite, a scale is negative or so large that values overflow, or row numbers do not
                rise strictly within the table.
        """
        ...


@dataclass(frozen=True)
class RowsAndValues:
    """The codec that sends some rows in some format."""

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
    """The codec of a name.

    Raises:
        ConfigError: no codec is called so.
    """
    if name not in CODECS:
        known = ", ".join(CODECS)
        raise ConfigError(f"key 'delta-codec': found {name!r}, but known codecs are {known}")
    return CODECS[name]


def wire_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Payload bytes of a set of arrays."""
    return sum(a.nbytes for a in arrays.values())
