"""The ranks of all users in a few kilobytes of text, so that a line of results can hold them.

From them HR@K and NDCG@K follow exactly for K ≤ 20, as do intervals and any split of the users that
somebody thinks of later. Ranks beyond 100 are clipped: no metric that is compared looks there.
"""

import base64
import zlib

import numpy as np
import numpy.typing as npt

CLIP = 101
"""Larger ranks count as this one. Up to 128, float16 holds ranks and halves of ranks exactly."""


def pack_ranks(ranks: npt.ArrayLike) -> str:
    """Base64 of the deflated float16 values, each at most :data:`CLIP`.

    Args:
        ranks: [U] not negative; ties make halves. Counts are packed in the same way.
    """
    clipped = np.minimum(np.asarray(ranks, dtype=np.float64), CLIP).astype("<f2")
    return base64.b64encode(zlib.compress(clipped.tobytes(), 9)).decode("ascii")


def unpack_ranks(text: str) -> npt.NDArray[np.float64]:
    """float64 [U]: what :func:`pack_ranks` was given, clipped.

    Raises:
        ValueError: the text is not of :func:`pack_ranks`.
    """
    try:
        content = zlib.decompress(base64.b64decode(text, validate=True))
    except zlib.error as error:
        raise ValueError(f"packed ranks are damaged ({error})") from error
    return np.frombuffer(content, dtype="<f2").astype(np.float64)
