"""Half-whitened principal components of title vectors.

In a language model's title vectors, a few directions that all titles share dominate the rest.
Whitening gives every direction the same spread, but amplifies noise; half whitening keeps the order
of the directions and brings their spreads closer together.
"""

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

WHITENING = 0.5
"""Exponent by which spreads of directions are evened out: 0 leaves them, 1 makes all equal."""


def half_whitened(
    centred: Doubles,
    scatter: Doubles,
    dim: int,
    *,
    negligible: float,
    least: float,
    fixed_signs: bool = False,
) -> Doubles:
    """The components along the ``dim`` directions of largest spread, evened out by half.

    Args:
        centred: [N, H] rows with mean 0.
        scatter: [H, H] ``centred.T @ centred``, divided by N or not: results scale with it.
        dim: directions at most.
        negligible: a direction whose spread is at most this share of the largest one is taken for a
            rounding error and left out.
        least: the largest spread counts as at least this much; a smaller one may itself be a
            rounding error.
        fixed_signs: flip every direction so that its largest entry is positive. Otherwise signs are
            those that the linear algebra library returns.

    Returns:
        [N, <= dim], the widest direction first; [N, 0] if all rows are alike.
    """
    spreads, axes = np.linalg.eigh(scatter)  # ascending; [H], [H, H]
    kept = np.flatnonzero(spreads > negligible * max(spreads[-1], least))[::-1][:dim]
    axes = axes[:, kept]
    if fixed_signs:
        axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(kept))])
    # A product with the inverse power would be rounded differently from the shipped vectors.
    components: Doubles = centred @ axes / spreads[kept] ** (WHITENING / 2)
    return components
