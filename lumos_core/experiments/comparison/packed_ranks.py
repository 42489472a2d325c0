"""A number of each user in a few kilobytes of text, so that a line of results can hold them: ranks
and counts.

From ranks HR@K and NDCG@K follow exactly for K ≤ 20, as do intervals and any split of the users
that somebody thinks of later. Ranks beyond 100 are clipped: no metric that is compared looks there.
"""

import base64
import zlib

import numpy as np
import numpy.typing as npt

CLIP = 101
"""Larger ranks count as this one. Up to 128, float16 holds ranks and halves of ranks exactly."""
LARGEST = 65_535
"""The largest count that is stored."""


def pack_ranks(ranks: npt.ArrayLike) -> str:
    """Base64 of the deflated float16 values, each at most :data:`CLIP`.

    Args:
        ranks: [U] not negative; ties make halves. Counts are packed in the same way.
    """
    clipped = np.minimum(np.asarray(ranks, dtype=np.float64), CLIP).astype("<f2")
    return _packed(clipped.tobytes())


def unpack_ranks(text: str) -> npt.NDArray[np.float64]:
    """float64 [U]: what :func:`pack_ranks` was given, clipped.

    Raises:
        ValueError: the text is not of :func:`pack_ranks`.
    """
    return np.frombuffer(_content(text), dtype="<f2").astype(np.float64)


def pack_counts(counts: npt.ArrayLike) -> str:
    """Base64 of the deflated whole numbers, as uint16.

    Args:
        counts: [U] from 0; larger ones than 65,535 are stored as that.
    """
    return _packed(np.minimum(np.asarray(counts), LARGEST).astype("<u2").tobytes())


def unpack_counts(text: str) -> npt.NDArray[np.int64]:
    """int64 [U]: what :func:`pack_counts` was given.

    Raises:
        ValueError: the text is not of :func:`pack_counts`.
    """
    return np.frombuffer(_content(text), dtype="<u2").astype(np.int64)


def _packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def _content(text: str) -> bytes:
    try:
        return zlib.decompress(base64.b64decode(text, validate=True))
    except zlib.error as error:
        raise ValueError(f"packed ranks are damaged ({error})") from error
