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
        dim, negligible, least, fixed_signs: see :func:`half_whitening`.

    Returns:
        [N, <= dim], the widest direction first; [N, 0] if all rows are alike.
    """
    axes, divisors = half_whitening(
        scatter, dim, negligible=negligible, least=least, fixed_signs=fixed_signs
    )
    # A product with the inverse power would be rounded differently from the shipped vectors.
    components: Doubles = centred @ axes / divisors
    return components


def half_whitening(
    scatter: Doubles, dim: int, *, negligible: float, least: float, fixed_signs: bool = False
) -> tuple[Doubles, Doubles]:
    """The directions of largest spread, and what to divide the components along them by.

    Args:
        scatter: [H, H], of rows with mean 0.
        dim: directions at most.
        negligible: a direction whose spread is at most this share of the largest one is taken for a
            rounding error and left out.
        least: the largest spread counts as at least this much; a smaller one may itself be a
            rounding error.
        fixed_signs: flip every direction so that its largest entry is positive. Otherwise signs are
            those that the linear algebra library returns.

    Returns:
        [H, <= dim] directions of length 1, the widest first, and [<= dim] divisors.
    """
    spreads, axes = np.linalg.eigh(scatter)  # ascending; [H], [H, H]
    kept = np.flatnonzero(spreads > negligible * max(spreads[-1], least))[::-1][:dim]
    axes = axes[:, kept]
    if fixed_signs:
        axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(kept))])
    return axes, spreads[kept] ** (WHITENING / 2)
