"""Half-whitened principal components of title vectors.

In what a language model says of titles, a few directions that all titles share drown the rest.
Whitening gives every direction the same spread, but blows up noise; half of it keeps the order of
the directions and brings them closer together.
"""

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

WHITENING = 0.5
"""Exponent by which directions are evened out: 0 leaves their spread, 1 makes all alike."""


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
        negligible: share of the largest spread up to which a direction is rounding and left out.
        least: what the largest spread counts as at least; below it even that may be rounding.
        fixed_signs: turn every direction so that its largest entry is positive, whatever the
            linear algebra library returns. Without it signs are the library's.

    Returns:
        [N, <= dim], the widest direction first; [N, 0] if all rows are alike.
    """
    spreads, axes = np.linalg.eigh(scatter)  # ascending; [H], [H, H]
    kept = np.flatnonzero(spreads > negligible * max(spreads[-1], least))[::-1][:dim]
    axes = axes[:, kept]
    if fixed_signs:
        axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(kept))])
    # A product with the inverse power would round otherwise than the vectors that ship.
    components: Doubles = centred @ axes / spreads[kept] ** (WHITENING / 2)
    return components
