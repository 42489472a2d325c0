"""One node: its users' histories, its views, its training. No network in here."""

import hashlib
from pathlib import Path

import numpy as np

from lumos_core import __version__
from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import LeaveOneOut, Sequences
from lumos_core.federation.error_feedback import Residuals
from lumos_core.learning.evaluation import evaluate
from lumos_core.learning.model import SASRec, build_model, get_params, set_params
from lumos_core.learning.parameters import ModelShape, Params
from lumos_core.learning.training import Trainer, TrainingSet, TrainSums
from lumos_core.privacy import mechanisms, noise
from lumos_core.runs.resume import run_key
from lumos_core.views.view import ViewSource, no_views
from lumos_core.wire import deltas
from lumos_core.wire.codecs import codec
from lumos_core.wire.messages import Metrics


class Node:
    """What a ClientApp process builds for a message, and what experiments keep for a whole run.

    Args:
        name: stable name; with the run's seed it determines every random draw of the node.
        catalog: the public catalog.
        sequences: the node's users, each with at least three interactions.
        config: the run's configuration.
        views: where views come from; asked at every training.
        device: torch device of training and evaluation.
        state: folder of this node's own: error feedback, the key of its noise; both are in memory
            only if not given.
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
    ) -> None:
        self.name, self.catalog, self.config, self.device = name, catalog, config, device
        self.split = LeaveOneOut(sequences)
        self._views = views
        debts = state / "residuals" / run_key(config, catalog.fingerprint) if state else None
        self._residuals = Residuals(debts)
        self._key = noise.node_key(state if config.dp in ("distributed", "user") else None)
        self._training_set: TrainingSet | None = None

    @property
    def shape(self) -> ModelShape:
        return ModelShape.of(self.config, len(self.catalog))

    def describe(self) -> dict[str, str]:
        """Answer to the server's first question: what has to match before anything is trained."""
        return {
            "name": self.name,
            "catalog": self.catalog.fingerprint,
            "shape": self.shape.fingerprint,
            "users": str(len(self.split.sequences)),
            "version": __version__,
        }

    def prepare(self) -> bool:
        """Write views that are missing, as far as the budget of the view source goes.

        Returns:
            Whether every user has views now.
        """
        return self._complete(self._data())

    def train(
        self, params: Params, round: int, evaluate_on: str | None = None
    ) -> tuple[Params, Metrics]:
        """Train ``local-epochs`` epochs from the received parameters.

        Args:
            params: global parameters.
            round: number of the round, part of the seed.
            evaluate_on: "validation" or "test" to measure the received model as well.

        Returns:
            The delta in the agreed codec, and the sums and counts that go with it.
        """
        model = self._model(params)
        metrics: Metrics = {}
        if evaluate_on:
            metrics |= self._evaluate(model, evaluate_on)
        data = self._data()
        seed = (self.config.seed, round, _number(self.name))
        sums = self._fit(model, data, params, round, seed)
        delta = deltas.subtract(get_params(model), params)
        # Where the server is not trusted with a delta, it is not with sums that have no noise.
        secret = self.config.dp in ("distributed", "user")  # a secure sum hides the counts itself
        told = TrainSums() if secret else sums
        metrics |= {
            "users": sums.users,
            "examples": told.examples,
            "loss": told.loss,
            "contrastive": told.contrastive,
            "contrastive-users": told.contrastive_users,
            "views-complete": int(self._complete(data)),
            "seconds": told.seconds,
        }
        rounding = np.random.default_rng([*seed, 0, 1])  # [*seed, e] is the trainer's, for epoch e
        return self._sendable(delta, round, rounding), metrics

    def evaluate(self, params: Params, split: str) -> Metrics:
        """Sums over this node's users of the metrics of the received model."""
        return self._evaluate(self._model(params), split)

    def _fit(
        self, model: SASRec, data: TrainingSet, params: Params, round: int, seed: tuple[int, ...]
    ) -> TrainSums:
        """Train the model in place on the node's users."""
        if self.config.dp == "user":
            from lumos_core.privacy.dp_sgd import PrivateTrainer, protected_arrays

            protected = {**params, **protected_arrays(data)}
            entropy = noise.node_entropy(self.config, self._key, self.name, round, protected)
            return PrivateTrainer(model, data, self.config, seed, entropy).train()
        trainer = Trainer(model, data, self.config, seed)
        sums = TrainSums()
        for _ in range(self.config.local_epochs):
            sums.add(trainer.epoch())
        return sums

    def _sendable(self, delta: Params, round: int, rng: np.random.Generator) -> Params:
        """The delta, and what earlier rounds still owe, in the agreed codec."""
        agreed, share = codec(self.config.delta_codec), self.config.top_rows_share
        feedback = self.config.error_feedback and not agreed.lossless
        owed = self._residuals.before(round) if feedback else None
        if owed is not None:
            delta = deltas.add(delta, owed)
        delta = mechanisms.protect(delta, self.config, self._key, self.name, round)
        arrays = agreed.encode(delta, rng, share)
        if feedback:
            sent = agreed.decode(arrays, delta, share)
            self._residuals.keep(round, deltas.subtract(delta, sent))
        return arrays

    def _model(self, params: Params) -> SASRec:
        model = build_model(self.shape, self.config.dropout)
        set_params(model, params)
        return model.to(self.device)

    def _evaluate(self, model: SASRec, split: str) -> Metrics:
        held_out = {"validation": self.split.validation, "test": self.split.test}
        histories, targets = held_out[split]()
        sums = evaluate(model, histories, targets)
        return {f"eval-{name}": value for name, value in sums.items()}

    def _data(self) -> TrainingSet:
        """Padded users; rebuilt only while views are still missing."""
        if self._training_set is None or not self._complete(self._training_set):
            train = self.split.train()
            self._training_set = TrainingSet.build(train, self.config.max_len, self._views(train))
        return self._training_set

    def _complete(self, data: TrainingSet) -> bool:
        return self._views is no_views or bool(data.has_views.all())


def _number(name: str) -> int:
    """A name as a seed: the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
