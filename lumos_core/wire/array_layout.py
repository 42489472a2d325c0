"""The layout of a reply's arrays: names, shapes, dtypes. It is checked before anything of a reply
is used."""

from collections.abc import Mapping

import numpy as np

from lumos_core.errors import ReplyError

Shape = tuple[int, ...]
Layout = dict[str, tuple[Shape, np.dtype[np.generic]]]
"""Name → shape and dtype."""


def check_layout(arrays: Mapping[str, np.ndarray], expected: Layout) -> None:
    """Check that ``arrays`` are exactly the expected ones and that floats among them are finite.

    Args:
        arrays: what a node sent; names and values may be anything.
        expected: the layout that it should have.

    Raises:
        ReplyError: a name is missing or unknown, a shape or dtype is wrong, a value is not finite.
    """
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
