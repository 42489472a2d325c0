"""Adam without the imports of ``torch.optim.Adam``.

A ClientApp is a fresh process for every message, and the constructor of any ``torch.optim``
optimiser imports ``torch._dynamo``, which takes much of the time of a short message. This class
calls the function beneath ``torch.optim.Adam``
(https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam) with the same state. The
arithmetic is the same, to the last bit.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam

_BETAS, _EPS = (0.9, 0.999), 1e-8  # torch's defaults


class Adam:
    """Fused Adam with coupled weight decay.

    Args:
        parameters: float tensors; changed in place by :meth:`step`.
        lr: learning rate.
        weight_decay: L2 penalty, added to the gradient.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._lr, self._weight_decay = lr, weight_decay
        self._state: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        used = [(i, p, p.grad) for i, p in enumerate(self._parameters) if p.grad is not None]
        if not used:
            return
        for i, p, _ in used:
            if i not in self._state:  # setdefault would fill the zeros anew in every step
                self._state[i] = _zeros(p)
        state = [self._state[i] for i, _, _ in used]
        adam(
            [p for _, p, _ in used],
            [g for _, _, g in used],
            [s[0] for s in state],
            [s[1] for s in state],
            [],
            [s[2] for s in state],
            fused=True,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=self._lr,
            weight_decay=self._weight_decay,
            eps=_EPS,
            maximize=False,
        )


def _zeros(parameter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return torch.zeros_like(parameter), torch.zeros_like(parameter), step
