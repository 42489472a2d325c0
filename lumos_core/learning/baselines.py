"""Baselines that a federation is compared with: centralised training, and popularity of items."""

from collections.abc import Callable
from typing import Any

from lumos_core.config import RunConfig, next_item_only
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import split_of
from lumos_core.learning.counting import POPULARITY, count
from lumos_core.learning.evaluation import best_weight, evaluate
from lumos_core.learning.metrics import SELECTION_METRIC, means, ranking_sums
from lumos_core.learning.model import build_model, get_params, set_params
from lumos_core.learning.parameters import ITEM_TABLE, ModelShape, Params
from lumos_core.learning.title_nearness import TitleNearness
from lumos_core.learning.training import Trainer, TrainingSet

OnEpoch = Callable[[dict[str, Any]], None]


def train_centralised(
    config: RunConfig,
    sequences: Sequences,
    initial: Params,
    titles: TitleNearness | None = None,
    *,
    max_epochs: int = 100,
    patience: int = 5,
    on_epoch: OnEpoch | None = None,
    device: str = "cpu",
) -> tuple[Params, dict[str, Any]]:
    """SASRec on pooled histories: next-item loss only, early stopping on validation NDCG@20.

    Args:
        config: model and optimiser settings; of its method all but the objective.
        sequences: all users.
        initial: starting parameters.
        titles: the nearness of titles; needed unless ``title-weight`` is 0.
        max_epochs: limit.
        patience: training stops after this many epochs without a better NDCG@20.
        on_epoch: called with a dict of epoch, loss, seconds and validation metrics.

    Returns:
        Best parameters, and {"epochs", "best_epoch", "title_weight", "seconds", "validation",
        "test"}.
    """
    config = config.replace(method=next_item_only(config.method))
    split = split_of(config, sequences)
    model = build_model(ModelShape.of(config, len(initial[ITEM_TABLE]) - 1), config.dropout)
    set_params(model, initial)
    model.to(device)
    trainer = Trainer(
        model, TrainingSet.build(split.train(), config.max_len), config, (config.seed,)
    )
    best_epoch, best_validation, best_params = 0, {SELECTION_METRIC: -1.0}, initial
    title_weight = config.title_weights[0]
    seconds = 0.0
    epoch = 0
    for epoch in range(1, max_epochs + 1):
        sums = trainer.epoch()
        seconds += sums.seconds
        found = evaluate(model, *split.validation(), titles, config.title_weights)
        weight = best_weight(found)
        validation = means(found[weight])
        if validation[SELECTION_METRIC] > best_validation[SELECTION_METRIC]:
            title_weight = weight
            best_epoch, best_validation, best_params = epoch, validation, get_params(model)
        if on_epoch is not None:
            loss = sums.loss / max(sums.examples, 1)
            on_epoch({"epoch": epoch, "loss": loss, "seconds": sums.seconds, **validation})
        if epoch - best_epoch >= patience:
            break
    set_params(model, best_params)
    test = means(evaluate(model, *split.test(), titles, (title_weight,))[title_weight])
    return best_params, {
        "epochs": epoch,
        "best_epoch": best_epoch,
        "title_weight": title_weight,
        "seconds": seconds,
        "validation": best_validation,
        "test": test,
    }


def popularity(sequences: Sequences, num_items: int) -> dict[str, float]:
    """Test metrics of recommending the items that are most frequent in all training histories."""
    counted = count(POPULARITY, sequences, [""] * num_items)
    return means(ranking_sums(counted.test))
