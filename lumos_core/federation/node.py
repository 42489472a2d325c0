"""One node: its users' histories, its views, its training. Nothing here knows of a network."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import split_of
from lumos_core.federation.error_feedback import FOLDER, Residuals, leaves_residuals
from lumos_core.learning.evaluation import evaluate
from lumos_core.learning.model import SASRec, build_model, get_params, set_params
from lumos_core.learning.parameters import ModelShape, Params
from lumos_core.learning.title_nearness import TitleNearness
from lumos_core.learning.training import Trainer, TrainingSet, TrainSums, never_ends
from lumos_core.privacy import mechanisms, noise
from lumos_core.runs.node_metrics import LEAST_USERS
from lumos_core.runs.resume import run_key
from lumos_core.views.view import ViewSource, no_views
from lumos_core.wire import deltas, versions
from lumos_core.wire.codecs import codec
from lumos_core.wire.messages import Metrics
from lumos_core.wire.reply_checks import evaluation_metrics


class Node:
    """One node of a run. A ClientApp process builds one for every message; experiments keep it for
    a whole run.

    Args:
        name: stable name; with the run's seed it determines every random draw of the node.
        catalog: the public catalog.
        sequences: the node's users, each with at least three interactions; with ``evaluation =
            none`` or ``last-days``, one.
        config: the run's configuration.
        views: where views come from; asked at every training while views are missing.
        device: torch device of training and evaluation.
        state: folder of this node for its error feedback and the key of its noise; without it both
            are kept in memory only.
        least_evaluated: with ``evaluation = last-days``, whose windows may hold few users: the
            fewest users that an evaluation may be about; with fewer it says nothing (no users).
        timer: called when a training begins; what it returns is called before every step, and
            ends the training if it raises.
    """

    def __init__(
        self,
        name: str,
        catalog: Catalog,
        sequences: Sequences,
        config: RunConfig,
        views: ViewSource = no_views,
        device: str = "cpu",
        state: Path | None = None,
        timer: Callable[[], Callable[[], None]] = lambda: never_ends,
        least_evaluated: int = LEAST_USERS,
    ) -> None:
        self._least_evaluated = least_evaluated if config.evaluation == "last-days" else 0
        self._timer = timer
        self.name, self.catalog, self.config, self.device = name, catalog, config, device
        self.split = split_of(config, sequences)
        self._views = views
        debts = state / FOLDER / run_key(config, catalog.fingerprint) if state else None
        key = noise.node_key(state if config.dp in ("distributed", "user") else None)
        self._residuals = Residuals(debts)
        self._outgoing = Outgoing(name, config, self._residuals, key)
        self._training_set: TrainingSet | None = None
        self._titles: TitleNearness | None = None

    @property
    def shape(self) -> ModelShape:
        return ModelShape.of(self.config, len(self.catalog))

    def describe(self) -> dict[str, str]:
        """Answer to the server's first question. The server compares the fingerprints of catalog
        and shape with the run's before the node may train."""
        return description(self.name, self.catalog, self.shape, len(self.split.sequences))

    def prepare(self) -> bool:
        """Write missing views, until the budget of the view source is used up.

        Returns:
            Whether every user has views now.
        """
        return self._complete(self._data())

    def train(
        self, params: Params, round: int, evaluate_on: str | None = None
    ) -> tuple[Params, Metrics]:
        """Train for ``local-epochs`` epochs, starting from the received parameters.

        Args:
            params: global parameters.
            round: number of the round, part of the seed.
            evaluate_on: "validation" or "test" to evaluate the received model as well.

        Returns:
            The delta in the run's codec, and the sums and counts that go with it.
        """
        model = self._model(params)
        metrics: Metrics = {}
        if evaluate_on:
            metrics |= self._evaluate(model, evaluate_on)
        data = self._data()
        seed = training_seed(self.config, round, self.name)
        sums = self._fit(model, data, params, round, seed)
        delta = deltas.subtract(get_params(model), params)
        metrics |= training_metrics(self.config, sums, self._complete(data))
        return self._outgoing.encoded(delta, round), metrics

    def evaluate(self, params: Params, split: str, title_weight: float = 0.0) -> Metrics:
        """Sums over this node's users of the metrics of the received model.

        Args:
            params: global parameters.
            split: "validation" or "test".
            title_weight: of the titles' nearness. On "validation" the model is evaluated with all
                weights that the run's configuration lists.

        Returns:
            The sums; nothing if the test of a run without one is asked for. That is how such a
            run's result is sent, to be kept and not measured.
        """
        model = self._model(params)  # it has to fit in either case
        if split == "test" and not self.config.tests:
            return {}
        return self._evaluate(model, split, title_weight)

    def _fit(
        self, model: SASRec, data: TrainingSet, params: Params, round: int, seed: tuple[int, ...]
    ) -> TrainSums:
        """Train the model in place on the node's users."""
        if self.config.dp == "user":
            from lumos_core.privacy.dp_sgd import PrivateTrainer, protected_arrays

            protected = {**params, **protected_arrays(data)}
            entropy = noise.node_entropy(
                self.config, self._outgoing.key, self.name, round, protected
            )
            return PrivateTrainer(model, data, self.config, seed, entropy, self._timer()).train()
        trainer = self._trainer(model, data, params, seed)
        sums = TrainSums()
        for _ in range(self.config.local_epochs):
            sums.add(trainer.epoch())
        return sums

    def _trainer(
        self, model: SASRec, data: TrainingSet, params: Params, seed: tuple[int, ...]
    ) -> Trainer:
        """The trainer of one training without ``dp = user``; subclasses may use another one."""
        return Trainer(model, data, self.config, seed, self._timer())

    def _model(self, params: Params) -> SASRec:
        model = build_model(self.shape, self.config.dropout)
        set_params(model, params)
        return model.to(self.device)

    def _evaluate(self, model: SASRec, split: str, title_weight: float = 0.0) -> Metrics:
        held_out = {"validation": self.split.validation, "test": self.split.test}
        histories, targets = held_out[split]()
        if len(histories) < self._least_evaluated:  # sums over so few would be about single users
            histories, targets = histories.subset([]), targets[:0]
        weights = self.config.title_weights if split == "validation" else (title_weight,)
        titles = self._title_nearness() if any(weights) else None
        return evaluation_metrics(evaluate(model, histories, targets, titles, weights))

    def _title_nearness(self) -> TitleNearness:
        if self._titles is None:
            self._titles = TitleNearness.of(self.catalog)
        return self._titles

    def _data(self) -> TrainingSet:
        """All users' padded sequences and views; rebuilt only while views are missing."""
        if self._training_set is None or not self._complete(self._training_set):
            train = self.split.train()
            self._training_set = TrainingSet.build(train, self.config.max_len, self._views(train))
        return self._training_set

    def _complete(self, data: TrainingSet) -> bool:
        return self._views is no_views or bool(data.has_views.all())


@dataclass(frozen=True)
class Outgoing:
    """The way of a node's deltas to the wire.

    Attributes:
        name: of the node.
        config: the run's configuration.
        residuals: what the codec did not send in earlier rounds.
        key: of the node's noise.
    """

    name: str
    config: RunConfig
    residuals: Residuals
    key: bytes = field(repr=False)

    def encoded(self, delta: Params, round: int) -> Params:
        """The delta in the run's codec, with what earlier rounds did not send added to it, and
        protected as ``dp`` says."""
        agreed, share = codec(self.config.delta_codec), self.config.top_rows_share
        # the trainer uses the same seed, followed by the number of the epoch alone
        rng = np.random.default_rng([*training_seed(self.config, round, self.name), 0, 1])
        feedback = leaves_residuals(self.config)
        owed = self.residuals.before(round) if feedback else None
        if owed is not None:
            delta = deltas.add(delta, owed)
        delta = mechanisms.protect(delta, self.config, self.key, self.name, round)
        arrays = agreed.encode(delta, rng, share)
        if feedback:
            sent = agreed.decode(arrays, delta, share)
            self.residuals.keep(round, deltas.subtract(delta, sent))
        return arrays


def description(name: str, catalog: Catalog, shape: ModelShape, users: int) -> dict[str, str]:
    """A node's answer to ``describe``."""
    return {
        "name": name,
        "catalog": catalog.fingerprint,
        "shape": shape.fingerprint,
        "users": str(users),
        **versions.own().to_info(),
    }


def training_metrics(config: RunConfig, sums: TrainSums, views_complete: bool) -> Metrics:
    """The sums and counts that go with a delta."""
    # A node that adds the noise itself reports no sums of its training but the number of users:
    # exact sums would reveal what the noise hides. Secure aggregation alone needs no such rule:
    # it hides the counts of a single node.
    told = TrainSums() if config.dp in ("distributed", "user") else sums
    return {
        "users": sums.users,
        "examples": told.examples,
        "loss": told.loss,
        "contrastive": told.contrastive,
        "contrastive-users": told.contrastive_users,
        "views-complete": int(views_complete),
        "seconds": told.seconds,
    }


def training_seed(config: RunConfig, round: int, name: str) -> tuple[int, int, int]:
    """The seed of a node's training in a round; the same on every machine."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return config.seed, round, number
