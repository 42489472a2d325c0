"""Global models that a malicious server makes up, so that deltas tell more than those of training.

RAIFLE (Pham et al., NDSS 2025, arXiv 2310.19163) has the server choose the features of items, so
that the update betrays which of them a user interacted with; its strongest variant gives items
features that do not overlap ("fingerprints"). In a model of item embeddings the server sends these
features, the item table, in every round, and the encoder as well. Two models follow from the idea:

- :func:`flat_model`: the encoder's output is the same vector for every history, and all rows of the
  table are zero. Then every item has the same probability, and the gradient of row j,

      Σ over positions (1 / N − [j came next]) · h,

  points along h for exactly the items that came next for somebody.
- :func:`marked_model`: the output is zero, but for positions behind one *marked* item, whose
  embedding alone is not zero. Attention averages over the positions so far and maps the mark to the
  coordinates that the final norm keeps. All other users of the node, and of all other nodes, have a
  gradient of zero, so the delta, *and every sum of deltas*, speaks of the users who met the marked
  item. Pasquini et al. (CCS 2022) show this for classifiers as "gradient suppression".

Differences to RAIFLE: it reconstructs interactions by optimisation, simulating the user's training;
here the models are such that the sign of a row is the answer. It has the server manipulate the
features of an otherwise honest model; here nothing of the model is left.

The server also chooses the configuration of the run: with :data:`LOUD_STEP` a node takes a single
step of the optimiser over all its users, without dropout, and the answer is exact. The step is
long, so that it fills whatever a delta is clipped to.
"""

from collections.abc import Mapping

import numpy as np

from lumos_core.config import SASREC, RunConfig, Scalar
from lumos_core.errors import ConfigError
from lumos_core.learning.parameters import ITEM_TABLE, ModelShape, Params

LOUD_STEP: Mapping[str, Scalar] = {
    "method": "fedavg", "item-bias": "none", "local-epochs": 1, "batch-size": 100_000,
    "dropout": 0.0, "learning-rate": 0.05,
}  # fmt: skip
"""What the server sets in the run's configuration, to see the gradient as it is."""
_LOUD = 1e3  # the mark outweighs the embedding of the marked item itself


def crafted_config(config: RunConfig) -> RunConfig:
    """The run's configuration for a crafted model.

    Rows of items that a node never met tell nothing of it, and would take a part of the clipped
    norm. So they are left alone where this is allowed.
    """
    rows: Mapping[str, Scalar] = {} if config.dp == "user" else {"item-rows": "met"}
    return RunConfig.from_flat({**config.to_flat(), **LOUD_STEP, **rows})


def check_encoder(config: RunConfig) -> None:
    """Raises ConfigError if there is no crafted model for the run's encoder."""
    if config.encoder != SASREC:
        raise ConfigError(
            f"encoder = {config.encoder}: crafted models exist for {SASREC} only; "
            f"leave out --active or choose encoder = {SASREC}"
        )


def flat_model(like: Params) -> Params:
    """The model whose output is a vector of ones, whatever the history.

    Args:
        like: parameters of the run's model; only names and shapes are used.
    """
    params = {name: np.zeros_like(array) for name, array in like.items()}
    params["norm.bias"][:] = 1.0
    return params


def marked_model(like: Params, shape: ModelShape, item: int) -> Params:
    """The model whose output is zero before an item and the same vector behind it.

    Args:
        like: parameters of the run's model; only names and shapes are used.
        shape: of the run's model, with encoder SASRec.
        item: the marked one, 1..N.
    """
    params = {name: np.zeros_like(array) for name, array in like.items()}
    half = shape.dim // 2
    params[ITEM_TABLE][item, :half] = 1.0
    first = "blocks.0."
    params[f"{first}attention_norm.weight"][:] = 1.0
    # The queries and keys stay zero: attention is the mean of the values so far.
    values = params[f"{first}attention.qkv.weight"][2 * shape.dim :]  # a view
    rows = np.arange(half)
    values[half + rows, rows] = 1.0
    np.fill_diagonal(params[f"{first}attention.out.weight"], _LOUD)
    params["norm.weight"][half : 2 * half] = 1.0
    return params


def flat_scores(delta: Params) -> np.ndarray:
    """How clearly each item came next for somebody: float64 [N], of a delta of the flat model."""
    found: np.ndarray = delta[ITEM_TABLE][1:].astype(np.float64).sum(axis=1)
    return found


def marked_scores(delta: Params, shape: ModelShape) -> np.ndarray:
    """How clearly each item came next behind the marked one: float64 [N]."""
    half = shape.dim // 2
    table = delta[ITEM_TABLE][1:, half : 2 * half].astype(np.float64)
    found: np.ndarray = table.sum(axis=1)
    return found
