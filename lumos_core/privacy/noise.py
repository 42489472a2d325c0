"""Gaussian noise, and the sources of randomness that it is drawn from."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lumos_core.config import RunConfig, fixed
from lumos_core.learning.parameters import Params
from lumos_core.safe_files import private_folder

KEY_BYTES = 32


class Entropy:
    """A stream of random numbers: the operating system's, or one determined by a key.

    Args:
        key: None for the operating system; otherwise the seed of SHAKE-256.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key, self._drawn = key, 0

    def uniform(self, size: int) -> NDArray[np.float64]:
        """[size], in the open interval (0, 1), 53 random bits each."""
        bits = np.frombuffer(self._bytes(8 * size), dtype="<u8") >> np.uint64(11)
        return (bits.astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, shape: Sequence[int], std: float) -> NDArray[np.float64]:
        """Gaussian noise."""
        from scipy.special import ndtri  # the normal distribution's quantile function

        noise: NDArray[np.float64] = std * ndtri(self.uniform(math.prod(shape))).reshape(shape)
        return noise

    def _bytes(self, count: int) -> bytes:
        if self._key is None:
            return os.urandom(count)
        self._drawn += 1
        stream = hashlib.shake_256(self._key + self._drawn.to_bytes(8, "little"))
        return stream.digest(count)


def server_entropy(config: RunConfig, round: int) -> Entropy:
    """The randomness for the server's noise of a round."""
    if config.dp_noise_seed < 0:
        return Entropy()
    return Entropy(_digest(b"server", config.dp_noise_seed, round))


def node_entropy(
    config: RunConfig, key: bytes, name: str, round: int, protected: Mapping[str, np.ndarray]
) -> Entropy:
    """The randomness for a node's noise of a round.

    Args:
        key: this node's secret key.
        protected: all values that the reply will depend on; other values give independent noise.
    """
    if config.dp_noise_seed >= 0:
        return Entropy(_digest(b"node", config.dp_noise_seed, round, name))
    digest = hashlib.sha256()
    for array_name, array in protected.items():
        digest.update(repr((array_name, array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    # Without the keys that may change during a run: a repeated round must give the same reply.
    run = sorted(fixed(config.to_flat()).items())
    return Entropy(_digest(b"secret", key, round, name, run, digest.digest()))


def node_key(folder: Path | None) -> bytes:
    """This node's secret key: made once and kept in ``folder``, readable by its owner only. Without
    a folder every call makes a new one."""
    if folder is None:
        return os.urandom(KEY_BYTES)
    path = folder / "noise.key"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        found = path.read_bytes()
        return found if len(found) == KEY_BYTES else os.urandom(KEY_BYTES)
    except FileNotFoundError:
        private_folder(folder)
        return node_key(folder)
    key = os.urandom(KEY_BYTES)
    with os.fdopen(handle, "wb") as file:
        file.write(key)
    return key


def add_noise(delta: Params, std: float, entropy: Entropy) -> Params:
    """The delta with Gaussian noise of this standard deviation on every value (float32)."""
    return {n: (a + entropy.normal(a.shape, std)).astype(np.float32) for n, a in delta.items()}


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()
