"""The encoders of :mod:`~lumos_core.learning.model` for many clients at a time, each with
parameters of its own.

It is what ``torch.func.vmap`` makes of a model, written out: a tenth of the operations, so that
small chunks of clients of like length cost little, and torch's own causal kernel of attention.

Shapes: C clients, S sequences of each, T items in the longest, D hidden size, U rows of a table.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lumos_core.config import BAG, LIGR
from lumos_core.learning.model import BagOfItems
from lumos_core.learning.parameters import ModelShape

Stacked = Mapping[str, Tensor]
"""Parameters by their names in the model, each [C, …]."""


def encode(
    shape: ModelShape, params: Stacked, table: Tensor, items: Tensor, masks: list[Tensor]
) -> Tensor:
    """Hidden state after each item.

    Args:
        shape: of the model; its encoder is one of LUMOS's own.
        params: all but the item table.
        table: float [C, U, D], the rows that the sequences name.
        items: int64 [C, S, T], rows of ``table``.
        masks: of dropout, each float [C, S, T, D], in the order in which the model's layers would
            draw them; none: no dropout.

    Returns:
        float [C, S, T, D].
    """
    dropped = _Dropout(masks)
    x = picked(table, items.flatten(1)).view(*items.shape, shape.dim) * shape.dim**0.5
    if shape.encoder == BAG:
        return _mean_of_last(params, dropped(x))
    x = dropped(x + params["positions.weight"][:, None, : items.shape[2]])
    for number in range(shape.layers):
        block = _gated_block if shape.encoder == LIGR else _block
        x = block(_Layers(params, f"blocks.{number}."), x, shape.heads, dropped)
    return _Layers(params).norm("norm", x)


def picked(table: Tensor, at: Tensor) -> Tensor:
    """Rows of every client's own table: float [C, U, D], int64 [C, M] → float [C, M, D]."""
    return F.embedding(in_one_table(at, table), table.reshape(-1, table.shape[2]))


def in_one_table(at: Tensor, table: Tensor) -> Tensor:
    """Rows of every client's own table as rows of all tables one below the other: int64 [C, M], of
    float [C, U, D] as float [C · U, D]."""
    clients, rows, _ = table.shape
    first = torch.arange(0, clients * rows, rows, device=table.device)
    return at + first[:, None]


class _Dropout:
    def __init__(self, masks: list[Tensor]) -> None:
        self._masks: Iterator[Tensor] | None = iter(masks) if masks else None

    def __call__(self, x: Tensor) -> Tensor:
        return x if self._masks is None else x * next(self._masks)


class _Layers:
    """The layers of a module, by their names."""

    def __init__(self, params: Stacked, prefix: str = "") -> None:
        self._params, self._prefix = params, prefix

    def linear(self, name: str, x: Tensor) -> Tensor:
        """float [C, S, T, D] → float [C, S, T, its outputs]."""
        weight = self._params[f"{self._prefix}{name}.weight"]
        bias = self._params[f"{self._prefix}{name}.bias"]
        found = torch.baddbmm(bias[:, None], x.flatten(1, 2), weight.mT)
        return found.view(*x.shape[:-1], -1)

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight = self._params[f"{self._prefix}{name}.weight"]
        bias = self._params[f"{self._prefix}{name}.bias"]
        scaled = F.layer_norm(x, x.shape[-1:])
        return torch.addcmul(bias[:, None, None], scaled, weight[:, None, None])


def _block(layers: _Layers, x: Tensor, heads: int, dropped: _Dropout) -> Tensor:
    x = x + dropped(_attention(layers, layers.norm("attention_norm", x), heads))
    inner = F.gelu(layers.linear("mlp.0", layers.norm("mlp_norm", x)))
    return x + dropped(layers.linear("mlp.2", inner))


def _gated_block(layers: _Layers, x: Tensor, heads: int, dropped: _Dropout) -> Tensor:
    attended = dropped(_attention(layers, layers.norm("attention_norm", x), heads))
    x = x + torch.sigmoid(layers.linear("attention_gate", x)) * attended
    values, gates = layers.linear("mlp_in", layers.norm("mlp_norm", x)).chunk(2, dim=-1)
    seen = dropped(layers.linear("mlp_out", values * F.silu(gates)))
    return x + torch.sigmoid(layers.linear("mlp_gate", x)) * seen


def _attention(layers: _Layers, x: Tensor, heads: int) -> Tensor:
    clients, sequences, t, d = x.shape
    qkv = layers.linear("attention.qkv", x).view(-1, t, 3, heads, d // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # three of [C · S, H, T, D / H]
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return layers.linear("attention.out", y.transpose(1, 2).reshape(clients, sequences, t, d))


def _mean_of_last(params: Stacked, x: Tensor) -> Tensor:
    t, window = x.shape[2], BagOfItems.WINDOW
    total = x.cumsum(2)
    total = total - F.pad(total, (0, 0, window, 0))[:, :, :t]
    count = torch.arange(1, t + 1, device=x.device).clamp_max(window)
    means = (total / count[:, None]).flatten(1, 2)
    return (means @ params["map.weight"].mT).view(x.shape)
