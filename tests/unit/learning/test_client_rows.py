"""Own rows and the global table, and whole tables, give what the objective gives one client."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lumos_core.learning import objectives, softmax_of_clients
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


def _whole(table: Tensor) -> WholeTables:
    return WholeTables(table, [np.union1d(*both) for both in zip(MET, OTHERS, strict=True)])


@pytest.mark.parametrize("kind", ["own", "whole"])
def test_sequences_name_the_same_embeddings(table: Tensor, kind: str) -> None:
    items = np.array([[2, 9, 1, 0], [7, 12, 3, 0]])
    rows = _whole(table) if kind == "whole" else OwnRows(table, MET, OTHERS, hides=True)
    named, local = rows.read(), torch.from_numpy(rows.local(items))
    for client in range(2):
        torch.testing.assert_close(named[client, local[client]], table[items[client]])


@pytest.mark.parametrize("block", [1, 2**18])
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_losses_and_their_gradients_are_those_of_the_objective(
    table: Tensor, with_bias: bool, sampled: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax_of_clients, "BLOCK_LOGITS", block)
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(2, 3, DIM, generator=generator)
    biases = torch.randn(2, ITEMS + 1, generator=generator)
    weights = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    negatives = np.array([[2, 2, 4, 1, 9], [7, 3, 3, 8, 12]])
    targets = np.array([[9, 1, 0], [7, 12, 0]])
    factors = torch.tensor([1.0, 3.0])  # what a client's loss counts in the whole

    def together(rows: ClientRows) -> tuple[Tensor, Tensor, list[Tensor]]:
        hidden, bias = states.clone().requires_grad_(), biases.clone().requires_grad_()
        at, named, given = torch.from_numpy(rows.local(targets)), rows.read(), bias * with_bias
        of = given if with_bias else None
        if sampled:
            loss = rows.sampled(named, hidden, at, rows.drawn(negatives), weights, of)
        else:
            loss = rows.full(named, hidden, at, weights, of)
        wanted = [hidden, bias, *rows.leaves()]
        found = torch.autograd.grad(
            (loss * factors).sum() + 0 * given.sum(), wanted, allow_unused=True
        )
        own = rows.gradient(found[2:])
        assert own is not None
        return loss.detach(), own, [found[0], found[1]]

    few, whole = together(OwnRows(table, MET, OTHERS, hides=True)), together(_whole(table))
    for client, met in enumerate(MET):
        hidden = states[client].clone().requires_grad_()
        bias, rows = biases[client].clone().requires_grad_(), table.clone().requires_grad_()
        real = targets[client] > 0
        given = bias * with_bias
        arguments = (hidden[real], torch.from_numpy(targets[client])[real], rows)
        more = (weights[client][real], given)
        if sampled:
            drawn = torch.from_numpy(negatives[client])
            expected = objectives.sampled_softmax(*arguments, drawn, *more)
        else:
            expected = objectives.full_softmax(*arguments, *more)
        gradients = torch.autograd.grad(expected * factors[client], [hidden, bias, rows])
        for loss, _, others in (few, whole):
            torch.testing.assert_close(loss[client], expected.detach())
            for ours, theirs in zip(others, gradients, strict=False):
                torch.testing.assert_close(ours[client], theirs)
        torch.testing.assert_close(whole[1][client], gradients[2])
        torch.testing.assert_close(few[1][client, : len(met)], gradients[2][met])
        assert not few[1][client, len(met) :].any(), "padding has no gradient"


def test_the_whole_table_moves_where_own_rows_did(table: Tensor) -> None:
    few, whole = OwnRows(table, MET, OTHERS, hides=False), _whole(table)
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
