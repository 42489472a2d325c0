"""Dropout whose masks are drawn beforehand, by the seeds of the clients that train together.

A client that trains alone seeds torch's generator and draws a mask at every dropout layer. Clients
that train together would share one generator, and the masks of one would depend on who the others
are. So each client's masks are drawn from a generator of its own, in the order in which its layers
would draw them: they are the same bits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class GivenDropout(nn.Module):
    """Takes the place of every dropout layer of a model; multiplies by the next of the given masks.

    Attributes:
        masks: those of the next forward pass, in the order of the layers' calls; without any, its
            input is returned as it is.
        calls: how often it was called without masks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Tensor] = []
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.masks:
            self.calls += 1
            return x
        return x * self.masks.pop(0)

    @classmethod
    def placed_in(cls, model: nn.Module) -> "GivenDropout":
        """Put one into the place of all dropout layers of a model."""
        given = cls()
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Dropout):
                    setattr(module, name, given)
        return given


def draw_masks(
    seeds: Sequence[int], lengths: Tensor, calls: int, width: int, dim: int, rate: float
) -> Tensor:
    """The masks of one step of every client.

    Args:
        seeds: of the clients' generators.
        lengths: int64 [C, S], of the sequences that a client encodes, in this order, one by one.
        calls: dropout layers that a forward pass goes through.
        width: T, the padded length.
        dim: D.
        rate: dropout rate.

    Returns:
        float [C, calls, S, T, D]: 0, or 1 / (1 - rate); 0 at padded positions.
    """
    clients, sequences = lengths.shape
    masks = torch.zeros(clients, calls, sequences, width, dim)
    generator = torch.Generator()
    for seed, own, sizes in zip(seeds, masks, lengths.clamp_min(1).tolist(), strict=True):
        generator.manual_seed(seed)
        for sequence, length in enumerate(sizes):
            for call in range(calls):
                own[call, sequence, :length].bernoulli_(1 - rate, generator=generator)
    return masks.div_(1 - rate)
