"""SASRec: what a state may depend on, its limits, its parameters."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lumos_core.config import RunConfig
from lumos_core.errors import ModelError
from lumos_core.learning.model import (
    BIAS_SCALE,
    GatedBlock,
    SASRec,
    get_params,
    last_position,
    new_model,
    set_params,
)
from lumos_core.learning.parameters import ModelShape

Tiny = Callable[..., RunConfig]
ITEMS = 20


@pytest.fixture(params=["sasrec", "ligr"])
def model(tiny: Tiny, request: pytest.FixtureRequest) -> SASRec:
    """Untrained, with values large enough that every dependence shows."""
    found = new_model(tiny(layers=2, dropout=0.5, encoder=request.param), ITEMS).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += 0.3 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
        found.items.weight[0] = 0
    return found


def _rows(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


def test_a_later_item_never_changes_an_earlier_state(model: SASRec) -> None:
    base = model(_rows([3, 1, 4, 1, 5, 9]))
    for position in range(6):
        changed = [3, 1, 4, 1, 5, 9]
        changed[position] = 17
        states = model(_rows(changed))
        torch.testing.assert_close(states[0, :position], base[0, :position])
        difference = (states[0, position:] - base[0, position:]).abs().amax(dim=1)
        assert bool((difference > 1e-4).all()), "every state from the changed item on must see it"


def test_wider_padding_changes_nothing(model: SASRec) -> None:
    narrow = model(_rows([3, 1, 4]))
    wide = model(_rows([3, 1, 4, 0, 0, 0, 0]))
    torch.testing.assert_close(wide[:, :3], narrow)
    lengths = torch.tensor([3, 7])
    both = model.encode_last(_rows([3, 1, 4, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]), lengths)
    torch.testing.assert_close(both[:1], narrow[:, 2])
    torch.testing.assert_close(both[1:], model(_rows([1, 2, 3, 4, 5, 6, 7]))[:, 6])


def test_sequences_of_a_batch_do_not_meet(model: SASRec) -> None:
    alone = model(_rows([3, 1, 4]))
    together = model(_rows([3, 1, 4], [9, 8, 7], [5, 5, 5]))
    torch.testing.assert_close(together[:1], alone)


def test_order_matters(model: SASRec) -> None:
    a, b = model(_rows([3, 1, 4]))[0, 2], model(_rows([1, 3, 4]))[0, 2]
    assert float((a - b).detach().abs().max()) > 1e-3


def test_every_state_knows_its_position(model: SASRec) -> None:
    base = model(_rows([3, 3, 3])).detach()
    with torch.no_grad():
        model.positions.weight[1] += torch.linspace(-1, 1, model.shape.dim)
    moved = model(_rows([3, 3, 3])).detach()
    torch.testing.assert_close(moved[0, 0], base[0, 0])
    assert float((moved[0, 1] - base[0, 1]).abs().max()) > 1e-3


def test_a_masked_item_keeps_its_position(model: SASRec) -> None:
    masked = model(_rows([3, 0, 4]))[0, 2]
    assert float((masked - model(_rows([3, 4]))[0, 1]).detach().abs().max()) > 1e-3
    assert float((masked - model(_rows([3, 1, 4]))[0, 2]).detach().abs().max()) > 1e-3


def test_scores_are_dot_products_with_items_one_to_n(model: SASRec) -> None:
    hidden = model(_rows([3, 1]))[:, 1]
    scores = model.scores(hidden).detach()
    assert scores.shape == (1, ITEMS)
    for item in range(1, ITEMS + 1):
        expected = float((hidden[0] @ model.items.weight[item]).detach())
        assert float(scores[0, item - 1]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_last_position_of_an_empty_sequence_is_defined() -> None:
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    picked = last_position(hidden, torch.tensor([2, 0]))
    assert picked.tolist() == [[2.0, 3.0], [6.0, 7.0]]


def test_longer_than_max_len_is_an_error(model: SASRec) -> None:
    longest = model.shape.max_len
    model(torch.ones(1, longest, dtype=torch.int64))
    with pytest.raises(ModelError, match=rf"sequence of {longest + 1} items.*max-len is {longest}"):
        model(torch.ones(1, longest + 1, dtype=torch.int64))


def test_dropout_only_in_training(model: SASRec) -> None:
    rows = _rows([3, 1, 4])
    assert torch.equal(model(rows), model(rows))
    model.train()
    assert not torch.equal(model(rows), model(rows))


def test_the_seed_alone_determines_a_new_model(tiny: Tiny) -> None:
    first = get_params(new_model(tiny(seed=5), ITEMS))
    torch.rand(100)  # the global generator plays no part …
    state = torch.get_rng_state()
    again = get_params(new_model(tiny(seed=5, method="confedsrs", dropout=0.7), ITEMS))
    assert torch.equal(torch.get_rng_state(), state)  # … and is left alone
    other = get_params(new_model(tiny(seed=6), ITEMS))
    assert list(first) == list(again)
    assert all(np.array_equal(first[n], again[n]) for n in first)
    assert not np.array_equal(first["items.weight"], other["items.weight"])


def test_the_padding_row_starts_at_zero(tiny: Tiny) -> None:
    table = get_params(new_model(tiny(), ITEMS))["items.weight"]
    assert not table[0].any()
    assert np.abs(table[1:]).min(axis=1).all()


def test_params_round_trip_and_are_copies(model: SASRec, tiny: Tiny) -> None:
    params = get_params(model)
    assert all(a.dtype == np.float32 for a in params.values())
    before = model.items.weight.detach().clone()
    params["items.weight"] += 1
    assert torch.equal(model.items.weight, before)
    other = new_model(tiny(layers=2, seed=9, encoder=model.shape.encoder), ITEMS)
    sent = {n: a.copy() for n, a in params.items()}
    set_params(other, params)
    params["items.weight"] += 1
    assert all(np.array_equal(a, sent[n]) for n, a in get_params(other).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("norm.weight"), r"'norm.weight' has shape None, expected \(8,\)"),
        (lambda p: p.update(extra=np.zeros(3)), r"'extra' has shape \(3,\), expected None"),
        (
            lambda p: p.update({"items.weight": p["items.weight"][:-1]}),
            r"'items.weight' has shape \(20, 8\), expected \(21, 8\).*another catalog",
        ),
        (
            lambda p: p.update({"norm.weight": np.zeros((1, 8), np.float32)}),
            r"'norm.weight' has shape \(1, 8\)",
        ),
    ],
)
def test_params_that_do_not_fit_are_named(
    model: SASRec, change: Callable[[dict[str, np.ndarray]], object], message: str
) -> None:
    params, before = get_params(model), get_params(model)
    change(params)
    with pytest.raises(ModelError, match=message):
        set_params(model, params)
    assert all(np.array_equal(a, before[n]) for n, a in get_params(model).items())


def test_shape_fingerprints_tell_every_size_apart() -> None:
    base = ModelShape(10, 8, 1, 2, 5)
    others = [
        ModelShape(11, 8, 1, 2, 5),
        ModelShape(10, 16, 1, 2, 5),
        ModelShape(10, 8, 2, 2, 5),
        ModelShape(10, 8, 1, 4, 5),  # no array has another shape, and yet it is another model
        ModelShape(10, 8, 1, 2, 6),
    ]
    assert ModelShape(10, 8, 1, 2, 5).fingerprint == base.fingerprint
    assert len({s.fingerprint for s in (base, *others)}) == 6


# ---------------------------------------------------------------- other encoders
def test_a_gated_block_equals_its_formula(tiny: Tiny) -> None:
    found = new_model(tiny(encoder="ligr", layers=1, dropout=0.0), ITEMS).eval()
    block = found.blocks[0]
    assert isinstance(block, GatedBlock)
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.2 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
        attended = block.attention(block.attention_norm(x))
        y = x + torch.sigmoid(x @ block.attention_gate.weight.T + block.attention_gate.bias) * (
            attended
        )
        inner = block.mlp_norm(y) @ block.mlp_in.weight.T + block.mlp_in.bias
        values, gates = inner[..., :16], inner[..., 16:]
        swish = gates * torch.sigmoid(gates)
        seen = (values * swish) @ block.mlp_out.weight.T + block.mlp_out.bias
        expected = y + torch.sigmoid(y @ block.mlp_gate.weight.T + block.mlp_gate.bias) * seen
        torch.testing.assert_close(block(x), expected)


def test_a_bag_is_the_mean_of_the_last_five_items_mapped(tiny: Tiny) -> None:
    found = new_model(tiny(encoder="bag"), ITEMS).eval()
    with torch.no_grad():
        found.map.weight += torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
        table = found.items.weight * 8**0.5
        history = [3, 1, 4, 1, 5, 9, 2, 6]
        states = found(_rows([*history, 0, 0]))[0]
        for t in range(8):
            window = torch.stack([table[i] for i in history[max(t - 4, 0) : t + 1]])
            torch.testing.assert_close(states[t], found.map.weight @ window.mean(0))
    lengths = torch.tensor([2, 8])
    padded = _rows([3, 1, 0, 0, 0, 0, 0, 0], history)
    last = found.encode_last(padded, lengths)
    torch.testing.assert_close(last[0], found(_rows([3, 1]))[0, 1])


@pytest.mark.parametrize("encoder", ["sasrec", "ligr", "bag"])
def test_every_encoder_keeps_to_its_longest_sequence(tiny: Tiny, encoder: str) -> None:
    found = new_model(tiny(encoder=encoder), ITEMS)
    with pytest.raises(ModelError, match="sequence of 11 items, but max-len is 10"):
        found(torch.ones(1, 11, dtype=torch.int64))


@pytest.mark.parametrize("encoder", ["sasrec", "ligr", "bag"])
def test_an_item_bias_is_added_to_scores_and_learned(tiny: Tiny, encoder: str) -> None:
    plain = new_model(tiny(encoder=encoder), ITEMS)
    found = new_model(tiny(encoder=encoder, item_bias="learned"), ITEMS)
    assert found.bias is not None
    assert "bias" not in get_params(plain)
    assert found.shape.fingerprint != plain.shape.fingerprint
    hidden = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found.items.weight.copy_(plain.items.weight)
        assert torch.equal(found.scores(hidden), plain.scores(hidden)), "it starts at 0"
        found.bias[4] = 0.5
        added = found.scores(hidden) - plain.scores(hidden)
    expected = torch.zeros(3, ITEMS)
    expected[:, 3] = 0.5 * BIAS_SCALE
    torch.testing.assert_close(added, expected)


def test_shapes_without_new_fields_have_their_old_fingerprint() -> None:
    old = {"num_items": 20, "dim": 8, "layers": 1, "heads": 2, "max_len": 10}
    assert ModelShape(20, 8, 1, 2, 10).to_dict() == old
    assert ModelShape(20, 8, 1, 2, 10, item_bias=True).to_dict() == {**old, "item_bias": True}
