"""How titles of a catalog become vectors, kept so that later titles become vectors in the same way.

Vectors of titles are relative to the catalog: readings are centred and half whitened over all of
its titles, words count by how rare they are in it, and wording is projected on what its titles
have in common. With each new item all vectors would change. So all of this is frozen at one
catalog: a title's vector then depends on nothing but the title and this basis.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from lumos_core.views.titles.embeddings import (
    DIM,
    LEAST,
    NEGLIGIBLE,
    Readings,
    rarity_of,
    unit,
)
from lumos_core.views.titles.tfidf import tfidf_beside, tfidf_coordinates
from lumos_core.views.titles.whitening import half_whitening

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Projection:
    """Centring and half whitening of one reading.

    Attributes:
        mean: float32 [H] over the titles of the basis.
        axes: float32 [H, K] directions of length 1, the widest first; K is 0 if all titles of the
            basis read alike.
        divisors: float32 [K].
    """

    mean: Floats
    axes: Floats
    divisors: Floats

    @classmethod
    def of(cls, states: Floats) -> Self:
        """The projection that these states [N, H] lead to."""
        mean = states.mean(axis=0, dtype=np.float64)
        centred = states.astype(np.float64) - mean
        axes, divisors = half_whitening(
            centred.T @ centred, DIM, negligible=NEGLIGIBLE, least=LEAST
        )
        return cls(*(np.asarray(array, dtype=np.float32) for array in (mean, axes, divisors)))

    def __call__(self, states: Floats) -> Floats:
        """[N, max(K, 1)] rows of length 1 (or 0)."""
        if not self.axes.shape[1]:
            return np.zeros((len(states), 1), dtype=np.float32)
        centred = states.astype(np.float64) - self.mean
        return unit(np.asarray(centred @ self.axes / self.divisors, dtype=np.float32))


@dataclass(frozen=True)
class WordingProjection:
    """TF-IDF of titles, reduced as the titles of the basis ask for.

    The directions of the reduction are combinations of the basis' titles. So the titles and their
    coordinates are kept, not the directions, which have a value for every n-gram.

    Attributes:
        titles: of the basis, also equal ones.
        coordinates: float16 [N, W], before rows are scaled to length 1.
    """

    titles: tuple[str, ...]
    coordinates: Halves

    @classmethod
    def of(cls, titles: Sequence[str], dim: int) -> Self:
        """The projection that these titles lead to, to at most ``dim`` coordinates."""
        coordinates = tfidf_coordinates(titles, dim, seed=0)
        return cls(tuple(titles), np.asarray(coordinates, dtype=np.float16))

    def __call__(self, titles: Sequence[str]) -> Floats:
        """[N, W] rows of length 1 (or 0)."""
        base, others = tfidf_beside(self.titles, titles)
        wide = self.coordinates.astype(np.float64)
        # left singular vectors over singular values; a value near 0 is a rounding error
        duals = wide @ np.linalg.pinv(wide.T @ wide, rcond=NEGLIGIBLE, hermitian=True)
        return unit(np.asarray(others @ (base.T @ duals.astype(np.float32)), dtype=np.float32))


@dataclass(frozen=True)
class FrozenBasis:
    """All that vectors and priors of titles depend on, beside the title and the model.

    Attributes:
        projections: one for each of :class:`~lumos_core.views.titles.embeddings.Readings`.
        rarity: token -> how rare it is in the titles of the basis.
        unseen: rarity of all other tokens.
        wording: of titles as strings.
        contexts: token ids behind which a title's prior is measured.
    """

    projections: tuple[Projection, ...]
    rarity: Mapping[int, float]
    unseen: float
    wording: WordingProjection
    contexts: tuple[tuple[int, ...], ...]

    def meaning(self, readings: Readings) -> Floats:
        """[N, H] the readings' projections, concatenated; rows of length 1."""
        pairs = zip(self.projections, readings, strict=True)
        return unit(np.concatenate([project(states) for project, states in pairs], axis=1))

    def rarity_in(self, tokens: Sequence[Sequence[int]]) -> dict[int, float]:
        """Rarity of all tokens of some titles."""
        return {token: self.rarity.get(token, self.unseen) for title in tokens for token in title}


def rarity_in_basis(tokens: list[list[int]]) -> tuple[dict[int, float], float]:
    """Rarity of the tokens of a basis' titles, and of tokens that none of them has: as if one title
    had them. Rounded to float32, as a file keeps them."""
    counted = {token: float(np.float32(value)) for token, value in rarity_of(tokens).items()}
    return counted, float(np.float32(np.log(len(tokens)) + 0.01))
