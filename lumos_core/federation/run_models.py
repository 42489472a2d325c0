"""The models of a run: the newest, the best, and their checkpoints."""

from dataclasses import replace
from pathlib import Path

from lumos_core.config import RunConfig
from lumos_core.federation import server_optimizer
from lumos_core.learning.parameters import Params
from lumos_core.runs.checkpoint import (
    BEST,
    LATEST,
    Checkpoint,
    RunProgress,
    save_checkpoint,
)
from lumos_core.runs.history import Event, value_of
from lumos_core.runs.resume import StartingPoint


class RunModels:
    """What the server has of a model. Nothing here asks a node.

    Attributes:
        params, optimizer: of the newest model.
        progress: how far the run is, and which round is the best so far.
        best: parameters of that round.

    Args:
        config: of the run.
        start: where the run begins, or is resumed.
        run_dir: the run's folder; None to keep nothing.
    """

    def __init__(self, config: RunConfig, start: StartingPoint, run_dir: Path | None) -> None:
        self._config, self._run_dir = config, run_dir
        self.params, self.optimizer = start.checkpoint.params, start.checkpoint.optimizer
        self.progress: RunProgress = start.checkpoint.progress
        if len(config.title_weights) == 1:  # nothing to choose: it holds without an evaluation, too
            self.progress = replace(self.progress, title_weight=config.title_weights[0])
        self.best = start.best

    @property
    def out_of_patience(self) -> bool:
        """Whether ``patience`` ends the run."""
        return 0 < self._config.patience <= self.progress.evaluations_since_best

    def step(self, delta: Params, number: int) -> None:
        """Take the step of a round.

        Args:
            delta: aggregated.
            number: of the round, which is that of the new model.
        """
        self.params, self.optimizer = server_optimizer.step(
            self.params, delta, self.optimizer, self._config
        )
        self.progress = replace(self.progress, round=number)

    def note_evaluation(self, event: Event) -> None:
        """Take account of an evaluation on validation targets, as the history has it: the newest
        model may be the best one."""
        of_round, weight = event["round"], event.get("title_weight", 0.0)
        self.progress = self.progress.after_evaluation(of_round, value_of(event), weight)
        if self.progress.best_round == of_round:
            self.take_newest()

    def take_newest(self) -> None:
        """Let the newest model be the best one."""
        self.best = self.params
        self.save_best()

    def settle(self) -> None:
        """At the run's end: if no evaluation ever succeeded, the newest model is the result."""
        if self.progress.best_round < 0:
            self.progress = replace(self.progress, best_round=self.progress.round)
            self.take_newest()

    def save_best(self) -> None:
        """Save the best model. Where nobody evaluates, that is the newest, and its file says of
        which round it is; the other checkpoint names no best round before the run's end, as a
        resumed run looks for the evaluation of a round that is named there."""
        progress = self.progress
        if not self._config.holds_out and progress.round:
            progress = replace(progress, best_round=progress.round)
        self._save(BEST, Checkpoint(self.best, {}, progress))

    def save_newest(self) -> None:
        """Save the newest model, with all that resuming the run takes."""
        self._save(LATEST, Checkpoint(self.params, self.optimizer, self.progress))

    def _save(self, name: str, checkpoint: Checkpoint) -> None:
        if self._run_dir is not None:
            save_checkpoint(self._run_dir / name, checkpoint)
