"""Masks, generated from keys.

A mask is the keystream of AES-256 in counter mode, read as 32-bit words, as in Bonawitz et al.
Flower's own generator (``pseudo_rand_gen``) is *not* used, for two reasons. It reduces the key to
32 bits that seed a Mersenne Twister, so that a server could try all seeds. And it never draws the
largest value, so that its masks are not uniform.
"""

from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY_BYTES = 32
_WORD = np.dtype("<u4")


def expand(key: bytes, size: int) -> np.ndarray:
    """A pseudo-random mask: uint32 [size].

    The counter may start at zero because a key is never used for anything else.
    """
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(size * _WORD.itemsize)), dtype=_WORD)


def add_own(vector: np.ndarray, seed: bytes) -> None:
    """Add a node's own mask to uint32 [size], in place, modulo 2^32."""
    vector += expand(seed, len(vector))


def remove_own(vector: np.ndarray, seed: bytes) -> None:
    """Undo :func:`add_own`."""
    vector -= expand(seed, len(vector))


def add_pairwise(vector: np.ndarray, name: str, keys: Mapping[str, bytes]) -> None:
    """Add the masks that ``name`` shares with others, in place, modulo 2^32.

    Of two nodes the one whose name comes first adds and the other subtracts, so that the masks
    cancel out in the sum.

    Args:
        vector: uint32 [size].
        name: of the node.
        keys: by name of the other node, the key that the two have agreed on.
    """
    for other, key in keys.items():
        if name < other:
            vector += expand(key, len(vector))
        else:
            vector -= expand(key, len(vector))
