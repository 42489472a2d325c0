"""Own rows and the global table give what a whole table for each client gives."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lumos_core.learning.client_rows import ClientRows, OwnRows, WholeTables
from lumos_core.learning.parameters import with_all_rows

ITEMS, DIM = 12, 4
MET = [np.array([2, 5, 9]), np.array([7])]
OTHERS = [np.array([1]), np.array([3, 12])]


@pytest.fixture
def table() -> Tensor:
    table = torch.randn(ITEMS + 1, DIM, generator=torch.Generator().manual_seed(0))
    table[0] = 0.0
    return table


def _context(rows: ClientRows, client: int) -> tuple[Tensor, ...]:
    return tuple(tensor[client] for tensor in rows.context)


def test_sequences_name_the_same_embeddings(table: Tensor) -> None:
    items = np.array([[2, 9, 1, 0], [7, 12, 3, 0]])
    rows = OwnRows(table, MET, OTHERS, hides=True)
    local = torch.from_numpy(rows.local(items))
    for client in range(2):
        own = rows.table(rows.own[client], _context(rows, client))
        torch.testing.assert_close(own[local[client]], table[items[client]])


@pytest.mark.parametrize("with_bias", [False, True])
def test_losses_and_their_gradients_are_those_of_the_whole_table(
    table: Tensor, with_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, DIM, generator=generator)
    bias = torch.randn(ITEMS + 1, generator=generator).requires_grad_() if with_bias else None
    weights = torch.tensor([0.5, 0.5, 0.0])
    negatives = np.array([[2, 2, 4, 1, 9], [7, 3, 3, 8, 12]])
    targets = np.array([[9, 1, 0], [7, 12, 0]])
    few, whole = OwnRows(table, MET, OTHERS, hides=True), WholeTables(table, 2)

    def loss(rows: ClientRows, client: int, sampled: bool) -> tuple[Tensor, ...]:
        states = hidden.clone().requires_grad_()
        at = torch.from_numpy(rows.local(targets))[client]
        own, context = rows.own[client], _context(rows, client)
        if sampled:
            drawn = tuple(tensor[client] for tensor in rows.drawn(negatives))
            found = rows.sampled(own, context, states, at, drawn, weights, bias)
        else:
            found = rows.full(own, context, states, at, weights, bias)
        wanted = [rows.own, states, *([bias] if bias is not None else [])]
        return (found.detach(), *torch.autograd.grad(found, wanted))

    for client, met in enumerate(MET):
        for sampled in (False, True):
            value, rows, *others = loss(few, client, sampled)
            expected, whole_rows, *whole_others = loss(whole, client, sampled)
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(rows[client, : len(met)], whole_rows[client, met])
            assert not rows[client, len(met) :].any(), "padding has no gradient"
            for ours, theirs in zip(others, whole_others, strict=True):
                torch.testing.assert_close(ours, theirs)


def test_the_whole_table_moves_where_own_rows_did(table: Tensor) -> None:
    few, whole = OwnRows(table, MET, OTHERS, hides=False), WholeTables(table, 2)
    with torch.no_grad():
        for client, met in enumerate(MET):
            few.own[client, : len(met)] += client + 1
            whole.own[client, met] += client + 1
    for ours, theirs, met in zip(few.moved(), whole.moved(), MET, strict=True):
        assert theirs.rows is None
        assert ours.rows is not None
        assert ours.rows.tolist() == met.tolist(), "without padding"
        table = with_all_rows(ours.by, ours.rows, ITEMS + 1)
        assert table.shape == (ITEMS + 1, DIM)
        np.testing.assert_allclose(table, theirs.by, atol=1e-6)
        assert table.any()
