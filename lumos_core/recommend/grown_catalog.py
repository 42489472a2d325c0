"""A model for a later version of its catalog: more items at its end, some titles corrected.

A new item's embedding is the weighted mean of those of the five items with the nearest titles, and
so is its bias: what is known of a thing that nobody has met yet is what it is like. An item whose
title was corrected keeps its row. Anything that gives another number to an item that the model
knows is refused, because rows of the model would then mean other items.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lumos_core.data.catalog import Catalog, differing_versions, short_fingerprint
from lumos_core.data.catalog_versions import Lineage
from lumos_core.errors import ModelError
from lumos_core.learning.parameters import OF_ITEMS, Params
from lumos_core.views.titles.vectors import tfidf_title_vectors

if TYPE_CHECKING:
    from lumos_core.recommend.model_files import ModelCard

NEIGHBOURS = 5
"""Items whose rows a new item's row is made of."""
_SHARPNESS = 3  # power of the cosine in the weights
_BLOCK = 1024  # new items at a time, so that no matrix of all pairs is made


def model_for(
    place: Path, params: Params, card: "ModelCard", catalog: Catalog
) -> "tuple[Params, ModelCard]":
    """A model with rows for all items of a catalog; unchanged if the catalog is its own.

    Args:
        place: of the model, for errors.
        params: its parameters.
        card: its card.
        catalog: the catalog.

    Raises:
        ModelError: the catalog has not grown from that of the model.
    """
    known = card.shape.num_items
    _check_grown(place, card, catalog)
    if catalog.is_known_as(card.catalog):
        return params, card
    shape = card.shape.model_copy(update={"num_items": len(catalog)})
    fitting = card.model_copy(update={"shape": shape, "catalog": catalog.fingerprint})
    return grown(params, known, catalog), fitting


def grown(params: Params, known: int, catalog: Catalog) -> Params:
    """A model with rows for the items by which its catalog has grown.

    Args:
        params: of a model of the first ``known`` items.
        known: M, their number.
        catalog: N items, of which the first M are the model's.

    Returns:
        The same parameters, with the item table [1 + N, D] and, if there are any, biases [1 + N].
    """
    if known == len(catalog):
        return params
    vectors = tfidf_title_vectors(catalog)  # [N, H], rows of length 1 or 0
    near, weights = _neighbours(vectors[:known], vectors[known:])
    longer = dict(params)
    for name in OF_ITEMS:
        if name in params:
            rows = params[name][1:][near]  # [N - M, K] or [N - M, K, D]
            shares = weights.reshape(weights.shape + (1,) * (rows.ndim - 2))
            new = (rows * shares).sum(axis=1).astype(params[name].dtype)
            longer[name] = np.concatenate([params[name], new])
    return longer


def _neighbours(
    known: npt.NDArray[np.float32], new: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """For each new title, the nearest known ones and their weights, which sum up to 1; equal
    weights where nothing is alike.

    Args:
        known: float32 [M, H].
        new: float32 [L, H].

    Returns:
        Indices [L, K] and weights [L, K].
    """
    count = min(NEIGHBOURS, len(known))
    indices = np.empty((len(new), count), dtype=np.intp)
    weights = np.empty((len(new), count))
    for first in range(0, len(new), _BLOCK):
        part = slice(first, first + _BLOCK)
        cosines = new[part] @ known.T
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        indices[part] = nearest
        alike = np.take_along_axis(cosines, nearest, axis=1).astype(np.float64)
        weights[part] = alike.clip(1e-3) ** _SHARPNESS
    return indices, weights / weights.sum(axis=1, keepdims=True)


def _check_grown(place: Path, card: "ModelCard", catalog: Catalog) -> None:
    """Check that the model's items are the first ones of the catalog."""
    known = card.shape.num_items
    if catalog.extends(known, card.catalog):
        return
    if Lineage.of(catalog).descends_from(known, card.catalog):
        return
    theirs, ours = card.catalog, catalog.fingerprint
    raise ModelError(
        f"{place}: was made for another catalog ({card.shape.num_items} items, fingerprint "
        f"{short_fingerprint(theirs)}…), and this one ({len(catalog)} items, "
        f"{short_fingerprint(ours)}…) has not grown from it: its rows would mean other items. A "
        "catalog may grow by items at its end; ids before them must stay as they were, and titles "
        "may be corrected by 'lumos catalog extend', which writes catalog.versions.json beside it"
        f"{differing_versions(theirs, ours)}"
    )
