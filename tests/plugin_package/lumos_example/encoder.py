"""An encoder: GRU4Rec (Hidasi et al., ICLR 2016) in the place of SASRec."""

from torch import Tensor, nn

from lumos_core.learning.model import last_position
from lumos_core.learning.parameters import ModelShape


class GRU4Rec(nn.Module):
    """A recurrent network over item embeddings; called, and answering, as SASRec."""

    def __init__(self, shape: ModelShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.items = nn.Embedding(shape.num_items + 1, shape.dim, padding_idx=0)
        self.recurrent = nn.GRU(shape.dim, shape.dim, shape.layers, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: Tensor) -> Tensor:
        """int64 [B, T] → float [B, T, D]."""
        hidden: Tensor = self.recurrent(self.dropout(self.items(items)))[0]
        return hidden

    def encode_last(self, items: Tensor, lengths: Tensor) -> Tensor:
        """int64 [B, T], int64 [B] → float [B, D]."""
        return last_position(self(items), lengths)

    def scores(self, hidden: Tensor) -> Tensor:
        """float [..., D] → float [..., N]."""
        return hidden @ self.items.weight[1:].T
