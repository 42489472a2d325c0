"""The model every run starts from: random by seed, or with item embeddings made from titles.

The catalog is public, so starting from its titles reveals nothing. Title vectors are centred,
whitened by their principal components and cut to ``dim``. Items of similar meaning then start as
neighbours in the item table; a client with few histories could never learn that alone.
"""

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.learning.model import get_params, new_model
from lumos_core.learning.parameters import ITEM_TABLE, Params
from lumos_core.views.titles.whitening import half_whitened


def initial_params(config: RunConfig, catalog: Catalog) -> Params:
    """Parameters of round 0, the same on every machine with the same catalog and LLM."""
    params = get_params(new_model(config, len(catalog)))
    if config.semantic_start != "none":
        from lumos_core.views.titles.vectors import semantic_vectors

        place_titles(params, semantic_vectors(config, catalog), config.semantic_scale)
    return params


def place_titles(params: Params, vectors: np.ndarray, scale: float) -> None:
    """Overwrite the item table with title vectors, in place; titles that are all alike change
    nothing.

    Args:
        params: parameters of a SASRec with N items of size D.
        vectors: float [N, H], one per item in catalog order.
        scale: standard deviation of the values written.
    """
    table = params[ITEM_TABLE]
    placed = principal_components(vectors, table.shape[1])
    spread = float(placed.std())
    if spread > 0:
        table[1:] = placed * (scale / spread)


def principal_components(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Rows of unit length, centred, projected on ``dim`` half-whitened principal components.

    Components beyond the rank of ``vectors`` are zero. Signs are fixed, so that the result does not
    depend on the linear algebra library.

    Args:
        vectors: float [N, H].
        dim: D.

    Returns:
        float32 [N, D].
    """
    x = vectors.astype(np.float64)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    x -= x.mean(axis=0)
    # Rows have length 1, so a largest variance below 1e-9 is a rounding error: all rows are alike.
    components = half_whitened(
        x, x.T @ x / len(x), dim, negligible=1e-9, least=1.0, fixed_signs=True
    )
    out = np.zeros((len(x), dim), dtype=np.float32)
    out[:, : components.shape[1]] = components
    return out
