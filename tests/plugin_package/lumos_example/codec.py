"""A codec: of every value its sign, and of every array its mean size (Bernstein et al., 2018)."""

from collections.abc import Mapping

import numpy as np

from lumos_core.errors import ReplyError
from lumos_core.learning.parameters import Params


class Sign:
    """int8 signs, and float32 sizes under ``NAME:size``."""

    name = "sign"
    lossless = False

    def encode(
        self, delta: Mapping[str, np.ndarray], rng: np.random.Generator, share: float = 1.0
    ) -> Params:
        signs = {n: np.sign(a).astype(np.int8) for n, a in delta.items()}
        sizes = {f"{n}:size": np.array([np.abs(a).mean()], np.float32) for n, a in delta.items()}
        return signs | sizes

    def decode(
        self,
        arrays: Mapping[str, np.ndarray],
        like: Mapping[str, np.ndarray],
        share: float = 1.0,
    ) -> Params:
        if set(arrays) != {*like, *(f"{n}:size" for n in like)}:
            raise ReplyError("delta has other arrays than signs and sizes of the model's")
        return {n: arrays[n].astype(np.float32) * arrays[f"{n}:size"][0] for n in like}


SIGN = Sign()
