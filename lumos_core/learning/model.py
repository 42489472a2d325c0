"""Encoders of item sequences: SASRec (Kang & McAuley, ICDM 2018), a causal transformer; its variant
with gated blocks; and a bag of the last items, the simplest encoder that learns anything.

Notation used in shapes::

    B  sequences in a batch        T  items in the longest sequence of the batch
    D  hidden size (``dim``)       N  items in the catalog; index 0 is padding, items are 1..N

Sequences are padded on the *right*. With a causal mask no real position ever sees a padded one, so
attention needs no padding mask and PyTorch's fast causal kernel applies.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumos_core import plugins
from lumos_core.config import BAG, LIGR, SASREC, RunConfig
from lumos_core.errors import ModelError
from lumos_core.learning.parameters import ModelShape, Params


class CausalSelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        qkv = self.qkv(x).view(b, t, 3, self.heads, d // self.heads)  # [B, T, 3, H, D/H]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # three of [B, H, T, D/H]
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        merged: Tensor = self.out(y.transpose(1, 2).reshape(b, t, d))  # [B, T, D]
        return merged


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a position-wise network."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        # No dropout on attention weights: it would rule out the fused kernel, and the residual
        # dropout below regularises as well.
        self.attention = CausalSelfAttention(dim, heads, dropout=0.0)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]


class GatedBlock(nn.Module):
    """Block of LiGR (Borisyuk et al., arXiv 2502.03417), which eSASRec uses in SASRec: a learned
    gate of its input decides how much each branch adds, and the position-wise network is a SwiGLU
    (Shazeer, arXiv 2002.05202)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = CausalSelfAttention(dim, heads, dropout=0.0)
        self.attention_gate = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_in = nn.Linear(dim, 4 * dim)  # two halves: values, and what gates them
        self.mlp_out = nn.Linear(2 * dim, dim)
        self.mlp_gate = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.dropout(self.attention(self.attention_norm(x)))
        x = x + torch.sigmoid(self.attention_gate(x)) * attended
        values, gates = self.mlp_in(self.mlp_norm(x)).chunk(2, dim=-1)  # two of [B, T, 2D]
        seen = self.dropout(self.mlp_out(values * F.silu(gates)))
        out: Tensor = x + torch.sigmoid(self.mlp_gate(x)) * seen
        return out


class SASRec(nn.Module):
    """Encoder of item sequences whose output is scored against the same item table.

    Args:
        shape: sizes; see :class:`ModelShape`.
        dropout: probability on embeddings and residual branches.

    Attributes:
        title_weight: of the titles' nearness in rankings, for a trained model. Not a parameter; see
            :mod:`lumos_core.learning.title_nearness`.
    """

    title_weight = 0.0

    def __init__(self, shape: ModelShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.items = nn.Embedding(shape.num_items + 1, shape.dim, padding_idx=0)
        self.positions = nn.Embedding(shape.max_len, shape.dim)
        self.dropout = nn.Dropout(dropout)
        block = GatedBlock if shape.encoder == LIGR else Block
        self.blocks = nn.ModuleList(
            block(shape.dim, shape.heads, dropout) for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(shape.dim)
        self.bias = _item_bias(shape)
        self.apply(_initialise)

    def forward(self, items: Tensor) -> Tensor:
        """Hidden state after each item.

        Args:
            items: int64 [B, T], right-padded with 0, T ≤ max_len. A zero *inside* a sequence is a
                masked item: it keeps its position and carries no identity.

        Returns:
            float [B, T, D]; values at padded positions are meaningless.
        """
        t = items.shape[1]
        if t > self.shape.max_len:
            raise ModelError(f"sequence of {t} items, but max-len is {self.shape.max_len}")
        x = self.items(items) * self.shape.dim**0.5 + self.positions.weight[:t]  # [B, T, D]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]

    def encode_last(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Hidden state after the last real item: int64 [B, T], int64 [B] → float [B, D]."""
        return last_position(self(items), lengths)

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of all catalog items: float [..., D] → float [..., N]; column j is item j + 1."""
        scores = hidden @ self.items.weight[1:].T
        bias = scaled_bias(self.bias)
        return scores if bias is None else scores + bias[1:]


class BagOfItems(SASRec):
    """The mean of the last five item embeddings, through one linear map.

    It is a yardstick: what a transformer adds to it is what order and attention are worth.
    ``layers`` and ``heads`` have no effect, and there are no positions.
    """

    WINDOW = 5

    def __init__(self, shape: ModelShape, dropout: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.shape = shape
        self.items = nn.Embedding(shape.num_items + 1, shape.dim, padding_idx=0)
        self.map = nn.Linear(shape.dim, shape.dim, bias=False)
        self.bias = _item_bias(shape)
        self.dropout = nn.Dropout(dropout)
        self.apply(_initialise)
        with torch.no_grad():
            self.map.weight.copy_(torch.eye(shape.dim))

    def forward(self, items: Tensor) -> Tensor:
        """State after each item: int64 [B, T] → float [B, T, D], see :meth:`SASRec.forward`."""
        t = items.shape[1]
        if t > self.shape.max_len:
            raise ModelError(f"sequence of {t} items, but max-len is {self.shape.max_len}")
        x = self.dropout(self.items(items) * self.shape.dim**0.5)  # [B, T, D]
        total = x.cumsum(1)
        total = total - F.pad(total, (0, 0, self.WINDOW, 0))[:, :t]  # of the last five
        count = torch.arange(1, t + 1, device=items.device).clamp_max(self.WINDOW)
        out: Tensor = self.map(total / count[:, None])
        return out


BIAS_SCALE = 10.0
"""A score has this many times the parameter. Adam's steps have a fixed size, and how much more
popular one item is than another has to be learned in few of them."""


def scaled_bias(bias: Tensor | None) -> Tensor | None:
    """What an item bias adds to scores: float [N + 1]; None if there is none."""
    return None if bias is None else BIAS_SCALE * bias


def _item_bias(shape: ModelShape) -> nn.Parameter | None:
    """How popular items are, apart from what they are like. With ``item-rows = met`` embeddings
    cannot learn it: the push on items that a node never met is what teaches popularity."""
    return nn.Parameter(torch.zeros(shape.num_items + 1)) if shape.item_bias else None


def last_position(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Pick the state after the last real item: float [B, T, D], int64 [B] → float [B, D]."""
    # not len(hidden): it would fix the size of a batch in an exported graph
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, (lengths - 1).clamp_min(0)]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()


ENCODERS: dict[str, type[SASRec]] = {SASREC: SASRec, LIGR: SASRec, BAG: BagOfItems}
"""LUMOS's own encoders, by their names as values of ``encoder``."""


def build_model(shape: ModelShape, dropout: float = 0.0) -> SASRec:
    """An encoder of a shape; its values are not determined yet.

    Other encoders than those of :data:`ENCODERS` come from plug-ins: a class with the constructor
    and the methods of :class:`SASRec`. It keeps its item embeddings as ``items``, an
    ``nn.Embedding`` of N + 1 rows of size ``dim``.

    Raises:
        ConfigError: no installed package has this encoder.
    """
    encoder: type[SASRec] = ENCODERS.get(shape.encoder) or plugins.load("encoder", shape.encoder)
    return encoder(shape, dropout)


def new_model(config: RunConfig, num_items: int) -> SASRec:
    """A freshly initialised model; the run's seed alone determines its values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_model(ModelShape.of(config, num_items), config.dropout)


def get_params(model: nn.Module) -> Params:
    """Copy a model's parameters out as float32 arrays."""
    return {
        name: tensor.detach().cpu().numpy().astype(np.float32, copy=True)
        for name, tensor in model.state_dict().items()
    }


def set_params(model: nn.Module, params: Mapping[str, np.ndarray]) -> None:
    """Load parameters into a model.

    Raises:
        ModelError: a name or shape differs from the model's.
    """
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: array.shape for name, array in params.items()}
    if expected != found:
        wrong = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        name = wrong[0]
        raise ModelError(
            f"parameters do not fit the model: '{name}' has shape {found.get(name)}, expected "
            f"{expected.get(name)} ({len(wrong)} differ); was the model made for another catalog "
            "or another dim, layers, max-len?"
        )
    model.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in params.items()})
