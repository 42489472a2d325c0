"""Masks drawn beforehand are those that dropout layers would draw themselves."""

import pytest
import torch
from torch import nn

from lumos_core.config import RunConfig
from lumos_core.learning.given_dropout import GivenDropout, draw_masks
from lumos_core.learning.model import build_model
from lumos_core.learning.parameters import ModelShape


@pytest.mark.parametrize("encoder", ["sasrec", "ligr", "bag"])
def test_a_forward_pass_is_that_of_the_seeded_layers(encoder: str) -> None:
    shape = ModelShape.of(RunConfig(encoder=encoder, dim=8, max_len=10), 30)
    own, given = build_model(shape, 0.4), build_model(shape)
    given.load_state_dict(own.state_dict())
    items = torch.tensor([[3, 7, 9, 30, 2]])
    torch.manual_seed(11)
    expected = own(items)

    dropout = GivenDropout.placed_in(given)
    assert not any(isinstance(module, nn.Dropout) for module in given.modules())
    plain = given(items)
    calls = dropout.calls
    masks = draw_masks([5, 11], torch.tensor([[5], [5]]), calls, 5, 8, 0.4)
    dropout.masks = list(masks[1].unbind())
    torch.testing.assert_close(given(items), expected, atol=0.0, rtol=0.0)
    assert not dropout.masks, "each was used once"
    assert not torch.equal(plain, expected)
    dropout.masks = list(masks[0].unbind())
    assert not torch.equal(given(items), expected), "another seed"


def test_masks_depend_on_the_own_seed_and_lengths_alone() -> None:
    lengths = torch.tensor([[4, 2], [6, 0]])
    together = draw_masks([1, 2], lengths, calls=3, width=6, dim=5, rate=0.25)
    alone = draw_masks([2], lengths[1:], calls=3, width=8, dim=5, rate=0.25)
    torch.testing.assert_close(together[1], alone[0, :, :, :6])
    kept = together[0, :, 0, :4]
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert not together[0, :, 0, 4:].any(), "nothing is drawn for padding"
    assert together[1, :, 1, :1].any(), "a view without items is encoded as padding alone"
