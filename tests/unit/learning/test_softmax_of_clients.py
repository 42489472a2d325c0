"""The softmax of many clients: what does not count is not computed."""

import pytest
import torch

from lumos_core.learning import softmax_of_clients
from lumos_core.learning.softmax_of_clients import log_partition

CLIENTS, EXAMPLES, ROWS, ITEMS, DIM = 5, 6, 4, 9, 3
LENGTHS = (1, 0, 6, 2, 3)


@pytest.mark.parametrize("block", [1, 40, 2**18])
@pytest.mark.parametrize("shares_a_table", [False, True])
def test_examples_without_weight_may_be_anything(
    monkeypatch: pytest.MonkeyPatch, block: int, shares_a_table: bool
) -> None:
    monkeypatch.setattr(softmax_of_clients, "BLOCK_LOGITS", block)
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    own, own_shift = drawn(CLIENTS, ROWS, DIM), drawn(CLIENTS, ROWS)
    table = drawn(ITEMS, DIM) if shares_a_table else None
    shift = drawn(CLIENTS, ITEMS) if shares_a_table else None
    real = torch.arange(EXAMPLES) < torch.tensor(LENGTHS)[:, None]
    weights = torch.rand(CLIENTS, EXAMPLES, generator=generator, dtype=torch.float64) * real
    hidden = drawn(CLIENTS, EXAMPLES, DIM)

    logits = hidden @ own.mT + own_shift[:, None]
    if table is not None and shift is not None:
        logits = torch.cat([logits, hidden @ table.T + shift[:, None]], 2)
    expected = (torch.logsumexp(logits, 2) * weights).sum(1)

    # Where a client has a block of its own, what follows its examples is not even read. Of the
    # others, and of a client without any, an example may be read, and counts nothing.
    unread = torch.nan if block == 1 else 100.0
    for client, length in enumerate(LENGTHS):
        hidden[client, max(length, 1) :] = unread
    hidden.requires_grad_()
    found = log_partition(hidden, own, own_shift, weights, table, shift)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()
    assert (hidden.grad[~real] == 0).all()
    assert (hidden.grad[real] != 0).any()
