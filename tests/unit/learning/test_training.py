"""Local training: determinism, edge cases, and what each method adds."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lumos_core.config import RunConfig
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut
from lumos_core.learning import objectives
from lumos_core.learning.adam import Adam
from lumos_core.learning.model import get_params, new_model, set_params
from lumos_core.learning.parameters import Params
from lumos_core.learning.training import Padded, Trainer, TrainingSet, TrainSums
from lumos_core.views.view import UserViews

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]
ITEMS = 24


def _views(train: Sequences, share: float = 1.0, seed: int = 0) -> dict[int, UserViews]:
    rng = np.random.default_rng(seed)

    def some(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, ITEMS + 1, size=n).tolist())

    chosen = range(math.ceil(share * len(train)))
    return {u: UserViews(some(3), some(len(train[u])), some(len(train[u]))) for u in chosen}


def _train(
    config: RunConfig,
    train: Sequences,
    views: dict[int, UserViews] | None = None,
    *,
    epochs: int = 2,
    seed: Sequence[int] = (0, 1),
) -> tuple[Params, list[TrainSums]]:
    model = new_model(config, ITEMS)
    data = TrainingSet.build(train, config.max_len, views)
    trainer = Trainer(model, data, config, seed)
    sums = [trainer.epoch() for _ in range(epochs)]
    return get_params(model), sums


def _equal(a: Params, b: Params) -> bool:
    return all(a[n].tobytes() == b[n].tobytes() for n in a)


@pytest.fixture
def train(toy_users: Users) -> Sequences:
    return LeaveOneOut(toy_users(30, shortest=4)).train()


# ---------------------------------------------------------------- what is trained on
def test_training_set_pads_histories_and_views() -> None:
    histories = Sequences.from_lists([[1, 2, 3, 4, 5, 6], [7], [8, 9]])
    views = {0: UserViews((10, 11), (12, 13), (14,)), 2: UserViews((15,), (16, 17), (18, 19))}
    data = TrainingSet.build(histories, 5, views)
    assert len(data) == 3
    assert data.history.items.tolist() == [[2, 3, 4, 5, 6], [7, 0, 0, 0, 0], [8, 9, 0, 0, 0]]
    assert data.has_views.tolist() == [True, False, True]
    assert data.future.items[0].tolist() == [4, 5, 6, 10, 11], "the most recent of both together"
    assert data.future.items[2].tolist() == [8, 9, 15, 0, 0]
    assert data.future_items.items[:, :2].tolist() == [[10, 11], [0, 0], [15, 0]]
    assert data.paraphrase.items.tolist() == [[12, 13], [0, 0], [16, 17]]
    assert data.counterfactual.lengths.tolist() == [1, 0, 2]


def test_a_batch_is_trimmed_to_its_longest() -> None:
    padded = Padded.of([np.array([1, 2, 3]), np.array([4]), np.array([], dtype=np.int64)], 5)
    items, lengths = padded.rows(np.array([1, 2]), torch.device("cpu"))
    assert items.tolist() == [[4], [0]]
    assert lengths.tolist() == [1, 0]


# ---------------------------------------------------------------- determinism
@pytest.mark.parametrize("method", ["fedavg", "confedsrs", "lumos"])
@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_two_runs_are_equal_to_the_bit(
    tiny: Tiny, train: Sequences, method: str, loss: str
) -> None:
    config = tiny(method=method, loss=loss, num_negatives=7, dropout=0.3, contrastive_weight=0.5)
    views = _views(train, 0.5)
    first, sums = _train(config, train, views)
    torch.rand(17)  # nothing global may play a part
    np.random.seed(3)
    again, sums_again = _train(config, train, views)
    assert _equal(first, again)
    assert [s.loss for s in sums] == [s.loss for s in sums_again]
    other, _ = _train(config, train, views, seed=(0, 2))
    assert not _equal(first, other)


def test_training_leaves_the_global_generator_alone(tiny: Tiny, train: Sequences) -> None:
    before = torch.get_rng_state()
    _train(tiny(dropout=0.3), train)
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_differ_from_each_other(tiny: Tiny, train: Sequences) -> None:
    """A trainer that is told to go on must not repeat its first epoch's batches and dropout."""
    config = tiny(dropout=0.5, learning_rate=1e-30, weight_decay=0.0)
    _, sums = _train(config, train, epochs=2)
    assert sums[0].loss != sums[1].loss


# ---------------------------------------------------------------- learning
@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_the_loss_falls_well_below_chance(tiny: Tiny, train: Sequences, loss: str) -> None:
    config = tiny(loss=loss, num_negatives=64, dim=16, learning_rate=0.02, dropout=0.0)
    _, sums = _train(config, train, epochs=25)
    mean = [s.loss / s.examples for s in sums]
    assert mean[0] == pytest.approx(math.log(ITEMS), rel=0.2)
    assert mean[-1] < 0.6 * mean[0]


def test_the_loss_that_is_reported_is_the_loss(tiny: Tiny, train: Sequences) -> None:
    """Recomputed at the end by hand, with a learning rate that leaves the model as it was."""
    config = tiny(dropout=0.0, learning_rate=1e-30, weight_decay=0.0, loss="full", batch_size=7)
    model = new_model(config, ITEMS)
    data = TrainingSet.build(train, config.max_len)
    sums = Trainer(model, data, config, (0,)).epoch()
    total, examples = 0.0, 0
    model.eval()
    with torch.no_grad():
        for history in train:
            recent = torch.from_numpy(history[-config.max_len :].astype(np.int64))
            hidden = model(recent[None])[0]
            for state, target in zip(hidden[:-1], recent[1:], strict=True):
                total += float(
                    objectives.full_softmax(state[None], target[None], model.items.weight)
                )
                examples += 1
    assert (sums.users, sums.examples) == (len(train), examples)
    assert sums.loss == pytest.approx(total, rel=1e-5)


def test_auto_chooses_by_the_size_of_the_catalog(
    tiny: Tiny, train: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    for name in ("full_softmax", "sampled_softmax"):
        real = getattr(objectives, name)

        def noted(*args: Any, _real: Any = real, _name: str = name, **options: Any) -> Any:
            used.append(_name)
            return _real(*args, **options)

        monkeypatch.setattr(objectives, name, noted)
    _train(tiny(full_softmax_max_items=ITEMS), train, epochs=1)
    assert set(used) == {"full_softmax"}
    used.clear()
    _train(tiny(full_softmax_max_items=ITEMS - 1), train, epochs=1)
    assert set(used) == {"sampled_softmax"}


def test_negatives_come_from_the_whole_catalog(
    tiny: Tiny, train: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = objectives.sampled_softmax

    def noted(
        hidden: Any, targets: Any, table: Any, negatives: torch.Tensor, **options: Any
    ) -> Any:
        seen.extend(negatives.tolist())
        assert len(negatives) == 50
        return real(hidden, targets, table, negatives, **options)

    monkeypatch.setattr(objectives, "sampled_softmax", noted)
    _train(tiny(loss="sampled", num_negatives=50), train, epochs=4)
    assert set(seen) == set(range(1, ITEMS + 1)), "all items, and never the padding"


def test_a_gradient_beyond_the_clip_is_cut(
    tiny: Tiny, train: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    real = Adam.step

    def noted(self: Adam) -> None:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if gradients:
            norms.append(float(torch.linalg.vector_norm(torch.cat([g.ravel() for g in gradients]))))
        real(self)

    monkeypatch.setattr(Adam, "step", noted)
    _train(tiny(grad_clip=0.01), train, epochs=1)
    assert norms
    assert max(norms) <= 0.01 * 1.001


@pytest.mark.parametrize("method", ["fedavg", "confedsrs", "lumos"])
def test_the_padding_row_stays_zero(tiny: Tiny, train: Sequences, method: str) -> None:
    config = tiny(method=method, weight_decay=0.1, loss="sampled")
    params, _ = _train(config, train, _views(train, 0.5))
    assert not params["items.weight"][0].any()
    assert all(np.isfinite(a).all() for a in params.values())


# ---------------------------------------------------------------- edges
@pytest.mark.parametrize("method", ["fedavg", "confedsrs", "lumos"])
@pytest.mark.parametrize(
    "histories", [[[5]], [[5], [6]], [[5, 6]], [[5], [1, 2, 3]]], ids=lambda h: str(h)
)
@pytest.mark.parametrize("with_views", [False, True])
def test_tiny_nodes_train(
    tiny: Tiny, method: str, histories: list[list[int]], with_views: bool
) -> None:
    train = Sequences.from_lists(histories)
    views = _views(train) if with_views else None
    config = tiny(method=method)
    params, (sums, _) = _train(config, train, views)
    assert all(np.isfinite(a).all() for a in params.values())
    assert sums.users == len(histories)
    assert sums.examples == sum(len(h) - 1 for h in histories)
    assert math.isfinite(sums.loss)
    start = get_params(new_model(config, ITEMS))
    contrast = len(histories) > 1 if method == "confedsrs" else method == "lumos" and with_views
    has_work = sums.examples or contrast
    assert _equal(params, start) is not bool(has_work)


def test_a_view_of_nothing_is_no_error(tiny: Tiny, train: Sequences) -> None:
    views = {0: UserViews((), (), ()), 1: UserViews((1,), (2,), ())}
    params, sums = _train(tiny(method="lumos", view_target_weight=1.0), train, views)
    assert all(np.isfinite(a).all() for a in params.values())
    assert sums[0].contrastive_users == 2


def test_sums_over_epochs_add_up() -> None:
    total = TrainSums()
    total.add(TrainSums(4, 10, 20.0, 1.0, 3, 0.5))
    total.add(TrainSums(4, 10, 15.0, 0.5, 3, 0.5))
    assert total == TrainSums(4, 20, 35.0, 1.5, 6, 1.0)


# ---------------------------------------------------------------- methods
def test_lumos_without_views_is_fedavg_plus_to_the_bit(tiny: Tiny, train: Sequences) -> None:
    for views in (None, {}):
        lumos, sums = _train(tiny(method="lumos", dropout=0.3), train, views)
        fedavg, _ = _train(tiny(method="fedavg-plus", dropout=0.3), train)
        assert _equal(lumos, fedavg)
        assert sums[0].contrastive_users == 0
        assert sums[0].contrastive == 0.0


def test_fedavg_ignores_views_and_settings_of_contrast(tiny: Tiny, train: Sequences) -> None:
    plain, _ = _train(tiny(method="fedavg"), train)
    given, sums = _train(
        tiny(method="fedavg", contrastive_weight=5.0, view_target_weight=2.0),
        train,
        _views(train),
    )
    assert _equal(plain, given)
    assert sums[0].contrastive_users == 0


def test_methods_train_different_models(tiny: Tiny, train: Sequences) -> None:
    found = {m: _train(tiny(method=m), train, _views(train))[0] for m in
             ("fedavg", "confedsrs", "lumos")}  # fmt: skip
    assert not _equal(found["fedavg"], found["confedsrs"])
    assert not _equal(found["fedavg"], found["lumos"])
    assert not _equal(found["confedsrs"], found["lumos"])


def test_confedsrs_ignores_language_views(tiny: Tiny, train: Sequences) -> None:
    without, _ = _train(tiny(method="confedsrs"), train)
    given, sums = _train(tiny(method="confedsrs"), train, _views(train))
    assert _equal(without, given)
    assert sums[0].contrastive_users == len(train), "its views need no model, so all have them"
    assert sums[0].contrastive > 0


def test_no_weight_is_no_contrast(tiny: Tiny, train: Sequences) -> None:
    for method, alone in (("lumos", "fedavg-plus"), ("confedsrs", "fedavg")):
        plain, _ = _train(tiny(method=alone), train)
        config = tiny(method=method, contrastive_weight=0.0, view_target_weight=0.0)
        weightless, sums = _train(config, train, _views(train))
        assert _equal(plain, weightless)
        assert sums[0].contrastive_users == 0


def test_only_users_with_views_contrast(tiny: Tiny, train: Sequences) -> None:
    views = _views(train, 0.5)
    _, sums = _train(tiny(method="lumos"), train, views, epochs=1)
    assert sums[0].contrastive_users == len(views)
    assert sums[0].users == len(train)


def test_views_of_a_user_are_that_users(
    tiny: Tiny, train: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever batch a user lands in, anchor and views must be the same person's."""
    config = tiny(method="lumos", dropout=0.0, learning_rate=1e-30, weight_decay=0.0, batch_size=7)
    views = _views(train, 0.6)
    calls: list[tuple[torch.Tensor, ...]] = []
    real = objectives.tri_view

    def noted(*args: Any) -> torch.Tensor:
        calls.append(tuple(a.detach() for a in args[:4]))
        return real(*args)

    monkeypatch.setattr(objectives, "tri_view", noted)
    model = new_model(config, ITEMS)
    Trainer(model, TrainingSet.build(train, config.max_len, views), config, (0,)).epoch()
    model.eval()

    def encode(items: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([list(items)[-config.max_len :]]))[0, -1]

    expected = {
        u: [
            encode(train[u].tolist()),
            encode([*train[u].tolist(), *v.future]),
            encode(v.paraphrase),
            encode(v.counterfactual),
        ]
        for u, v in views.items()
    }
    found = [torch.stack(row) for call in calls for row in zip(*call, strict=True)]
    assert len(found) == len(views)
    for row in found:
        matches = [u for u, e in expected.items() if torch.allclose(row, torch.stack(e), atol=1e-5)]
        assert matches, "no user has this history with these three views"
        expected.pop(matches[0])


@pytest.mark.parametrize("ablation", ["use_future", "use_paraphrase", "use_counterfactual"])
def test_an_ablated_view_plays_no_part(tiny: Tiny, train: Sequences, ablation: str) -> None:
    field = ablation.removeprefix("use_")
    config = tiny(method="lumos", **{ablation: False})
    views = _views(train)
    other = {u: v._replace(**{field: tuple(reversed(v.future))}) for u, v in views.items()}
    assert _equal(_train(config, train, views)[0], _train(config, train, other)[0])
    everything = tiny(method="lumos")
    assert not _equal(_train(everything, train, views)[0], _train(everything, train, other)[0])
    assert not _equal(_train(config, train, views)[0], _train(everything, train, views)[0])


def test_futures_as_targets_teach_the_last_position(tiny: Tiny) -> None:
    """Every user's future is item 20, which nobody ever bought: it must be recommended."""
    train = Sequences.from_lists([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    views = {u: UserViews((20,), (1, 1, 1), (9, 9, 9)) for u in range(3)}
    config = tiny(
        method="lumos", contrastive_weight=0.0, view_target_weight=1.0, dropout=0.0,
        learning_rate=0.05,
    )  # fmt: skip
    params, sums = _train(config, train, views, epochs=40)
    model = new_model(config, ITEMS).eval()
    set_params(model, params)
    with torch.no_grad():
        best = model.scores(model(torch.tensor([[1, 2, 3]]))[0, -1]).argmax().item() + 1
    assert best == 20
    assert sums[0].examples == 6, "extra targets are not counted as the users' own"


def test_contrast_moves_the_history_towards_its_future(tiny: Tiny, train: Sequences) -> None:
    views = _views(train)
    config = tiny(method="lumos", contrastive_weight=5.0, dropout=0.0)
    _, sums = _train(config, train, views, epochs=10)
    first, last = (s.contrastive / s.contrastive_users for s in (sums[0], sums[-1]))
    assert last < 0.8 * first


def test_future_items_as_extra_targets_change_the_training(tiny: Tiny, train: Sequences) -> None:
    plain, _ = _train(tiny(method="fedavg-plus"), train)
    config = tiny(method="lumos", contrastive_weight=0.0, view_target_weight=0.2)
    taught, sums = _train(config, train, _views(train))
    assert not _equal(plain, taught)
    assert sums[0].contrastive_users == 0
    without, _ = _train(config.replace(use_future=False), train, _views(train))
    assert _equal(plain, without)


# ---------------------------------------------------------------- rows of the item table
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("method", ["fedavg", "confedsrs", "lumos"])
def test_rows_of_items_that_were_not_met_stay(tiny: Tiny, method: str, decay: float) -> None:
    """Not even weight decay moves them, nor do items that occur in views alone."""
    train = Sequences.from_lists([[1, 2, 3], [2, 3, 4, 5], [5, 1, 7]])
    views = {u: UserViews((20, 21), (22, 23, 24), (19,)) for u in range(3)}
    config = tiny(method=method, item_rows="met", weight_decay=decay, local_epochs=3)
    before = get_params(new_model(config, ITEMS))["items.weight"]
    after = _train(config, train, views)[0]["items.weight"]
    moved = (after != before).any(axis=1)
    assert np.flatnonzero(moved).tolist() == [1, 2, 3, 4, 5, 7]
    assert moved.dtype == bool


@pytest.mark.parametrize("method", ["fedavg", "confedsrs"])
def test_weight_decay_leaves_items_alone_that_the_sampled_softmax_did_not_draw(
    tiny: Tiny, method: str
) -> None:
    """Adam would make full steps of their decay, as they have no other gradient."""
    config = tiny(
        method=method, item_bias="learned", weight_decay=0.1, loss="sampled", num_negatives=1
    )
    model = new_model(config, ITEMS)
    with torch.no_grad():
        model.bias.fill_(1.0)
    before = get_params(model)
    data = TrainingSet.build(Sequences.from_lists([[1, 2, 3]]), config.max_len, None)
    Trainer(model, data, config, (0, 1)).epoch()
    after = get_params(model)
    for name in ("items.weight", "bias"):
        moved = np.flatnonzero((after[name] != before[name]).reshape(ITEMS + 1, -1).any(axis=1))
        assert len(moved) <= 4, "items of the history, and one negative"
        assert {2, 3} <= set(moved.tolist())


def test_all_rows_are_trained_if_asked_for(tiny: Tiny, train: Sequences) -> None:
    config = tiny(method="lumos", item_rows="all")
    before = get_params(new_model(config, ITEMS))["items.weight"]
    after = _train(config, Sequences.from_lists([[1, 2, 3]]))[0]["items.weight"]
    assert (after[1:] != before[1:]).any(axis=1).all()


def test_which_rows_are_trained_by_default(tiny: Tiny) -> None:
    assert tiny(method="lumos").trains_met_rows
    assert tiny(method="fedavg-plus").trains_met_rows
    assert not tiny(method="fedavg").trains_met_rows
    assert not tiny(method="confedsrs").trains_met_rows
    assert not tiny(method="lumos", dp="user").trains_met_rows


def test_an_item_bias_learns_popularity(tiny: Tiny) -> None:
    """Also of items that the node never met, whose embeddings stay."""
    histories = Sequences.from_lists([[1, 2, 3, 2, 4, 2] for _ in range(8)])
    config = tiny(method="lumos", item_bias="learned", learning_rate=0.01)
    bias = _train(config, histories, epochs=10)[0]["bias"]
    assert bias[2] > bias[3] > bias[9]
    assert bias[9] < 0
