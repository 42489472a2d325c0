"""The round loop: one for real federations and for experiments in one process.

It knows nodes only through a :class:`Transport`, which the Flower ``server_app`` implements over a
Grid and :mod:`lumos_core.in_process` by calling nodes directly. Data flow of a round::

    global model ─► train / evaluate instructions ─► replies ─► checks ─► aggregate ─► server
    optimiser ─► global model ─► checkpoint, history

A node that trains in a round also evaluates the model it *received*, in the same reply, so that
evaluation costs no messages; nodes that do not train get an evaluate instruction beside it. The
metrics of round r's model are therefore known while round r + 1 trains.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from lumos_core import aggregation, replies, server_optimizer
from lumos_core.checkpoint import Checkpoint, Progress, save_checkpoint
from lumos_core.config import RunConfig
from lumos_core.errors import FederationError, ReplyError
from lumos_core.evaluation import means
from lumos_core.history import Event, History, OnEvent
from lumos_core.model import ModelShape, Params
from lumos_core.replies import Metrics

log = logging.getLogger(__name__)
Split = Literal["validation", "test"]
POLL_SECONDS = 0.25
SELECTION_METRIC = "ndcg@20"


@dataclass(frozen=True)
class Instruction:
    """What a node is asked to do."""

    node: str
    kind: Literal["query", "train", "evaluate"]
    round: int = 0
    params: Params | None = None
    evaluate: Split | None = None  # what to measure the received model on


@dataclass(frozen=True)
class Reply:
    """What came back. Nothing in it has been checked yet."""

    node: str
    kind: str
    arrays: Params | None = None
    metrics: Metrics = field(default_factory=dict)
    info: dict[str, str] = field(default_factory=dict)
    error: str | None = None  # a code, see client_app.errors; never an exception's text
    bytes_up: int = 0
    bytes_down: int = 0


class Transport(Protocol):
    """The way to the nodes."""

    def nodes(self) -> list[str]:
        """Names of the nodes that are connected now, sorted; the same name means the same data."""
        ...

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        """Send, then wait until all have answered or ``deadline`` seconds have passed.

        A node that has not answered is simply missing from the list.
        """
        ...


@dataclass(frozen=True)
class FederationResult:
    """How a run ended. ``outcome`` is "completed" only if no round failed."""

    outcome: Literal["completed", "failed"]
    reason: str
    params: Params  # of the best evaluated round, by validation NDCG@20
    rounds: int
    best_round: int
    validation: dict[str, float]
    test: dict[str, float]
    events: list[Event]


@dataclass
class _Aggregator:
    """The checks and arithmetic of one round's train replies."""

    config: RunConfig
    params: Params
    accepted: dict[str, tuple[Params, Metrics]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def offer(self, reply: Reply, evaluated: bool) -> bool:
        """Take a train reply if it is what was asked for; otherwise remember why not."""
        try:
            if reply.error is not None:
                raise ReplyError(f"error '{reply.error[:80]}'")
            delta = replies.check_train(
                reply.arrays or {}, reply.metrics, self.params, self.config, evaluated
            )
        except ReplyError as error:
            self.failed[reply.node] = str(error)
            log.warning("node %s: train reply rejected: %s", reply.node, error)
            return False
        self.accepted[reply.node] = (delta, reply.metrics)
        return True

    def delta(self) -> Params:
        """Aggregate what was accepted, in order of node names."""
        names = sorted(self.accepted)
        weights = np.array([self._weight(self.accepted[n][1]) for n in names], dtype=np.float64)
        rule = aggregation.RULES[self.config.aggregation]
        return rule([self.accepted[n][0] for n in names], weights / weights.sum())

    def total(self, metric: str) -> float:
        return float(sum(metrics[metric] for _, metrics in self.accepted.values()))

    def _weight(self, metrics: Metrics) -> float:
        return 1.0 if self.config.weighting == "uniform" else float(metrics[self.config.weighting])


class Federation:
    """One run. Use :func:`run_federation`."""

    def __init__(
        self,
        config: RunConfig,
        transport: Transport,
        catalog_fingerprint: str,
        shape: ModelShape,
        start: Checkpoint,
        run_dir: Path | None,
        history: History,
    ) -> None:
        self.config, self.transport, self.shape = config, transport, shape
        self.catalog_fingerprint = catalog_fingerprint
        self.params, self.optimizer = start.params, start.optimizer
        self.progress = start.progress
        self.best = start.params
        self.folder = run_dir / "checkpoint" if run_dir else None
        self.history = history
        self.failed_rounds = 0
        self._compatible: dict[str, bool] = {}

    # --- the run

    def run(self) -> FederationResult:
        self._wait_for_nodes()
        reason = ""
        attempts = 0
        while self.progress.round < self.config.rounds:
            problem = self._round(self.progress.round + 1)
            if self._out_of_patience():
                break
            if not problem:
                attempts = 0
                continue
            attempts += 1
            self.failed_rounds += 1
            if attempts > self.config.max_failed_rounds:
                reason = f"gave up: {attempts} failed rounds in a row; the last: {problem}"
                break
        return self._finish(reason)

    def _round(self, number: int) -> str:
        """Train once. Returns why the round failed, or nothing."""
        started = time.monotonic()
        names = self._compatible_nodes()
        sampled = self._sample(names, number)
        evaluate: Split | None = (
            "validation" if (number - 1) % self.config.evaluate_every == 0 else None
        )
        if evaluate and self._evaluated(number - 1):
            evaluate = None  # a failed round is tried again: its model is known already
        instructions = [Instruction(n, "train", number, self.params, evaluate) for n in sampled]
        if evaluate:
            others = sorted(set(names) - set(sampled))
            instructions += [
                Instruction(n, "evaluate", number, self.params, evaluate) for n in others
            ]
        answered = self._exchange(instructions)
        aggregator = _Aggregator(self.config, self.params)
        ranking: list[Reply] = []
        for reply in answered:
            if reply.kind == "train":
                if aggregator.offer(reply, evaluate is not None) and evaluate:
                    ranking.append(reply)
            else:
                ranking.append(reply)
        for name in set(sampled) - {r.node for r in answered if r.kind == "train"}:
            aggregator.failed[name] = "no reply before the deadline"
            log.warning("node %s: no reply before the deadline", name)
        if evaluate:
            self._record_evaluation(number - 1, "validation", ranking)
            if self._out_of_patience():
                return ""
        event: Event = {
            "round": number,
            "seconds": round(time.monotonic() - started, 3),
            "bytes_up": sum(r.bytes_up for r in answered),
            "bytes_down": sum(r.bytes_down for r in answered),
            "nodes_ok": len(aggregator.accepted),
            "failed": [{"node": n, "reason": r} for n, r in sorted(aggregator.failed.items())],
        }
        if len(aggregator.accepted) < self.config.min_replies:
            problem = (
                f"{len(aggregator.accepted)} valid replies, min-replies = {self.config.min_replies}"
            )
            self.history.add({"event": "failed-round", **event, "reason": problem})
            log.error("round %d failed: %s; the model stays as it was", number, problem)
            return problem
        self.params, self.optimizer = server_optimizer.step(
            self.params, aggregator.delta(), self.optimizer, self.config
        )
        self.progress = replace(self.progress, round=number)
        self._save("latest", self.params, self.optimizer)
        examples = aggregator.total("examples")
        contrasted = aggregator.total("contrastive-users")
        self.history.add(
            {
                "event": "round",
                **event,
                "users": int(aggregator.total("users")),
                "views": int(aggregator.total("views")),
                "examples": int(examples),
                "loss": aggregator.total("loss") / examples,
                "contrastive": aggregator.total("contrastive") / contrasted if contrasted else None,
                "train_seconds": round(aggregator.total("seconds"), 3),
            }
        )
        return ""

    def _finish(self, reason: str) -> FederationResult:
        """Evaluate the last model, then the best one on the test targets."""
        last = self.progress.round
        if not self._evaluated(last):
            self._evaluate_everywhere(last, "validation", self.params)
        test = self._evaluate_everywhere(self.progress.best_round, "test", self.best)
        if not reason and self.failed_rounds:
            reason = f"{self.failed_rounds} rounds failed (see history.jsonl)"
        if not reason and not test:
            reason = "no node answered the final evaluation"
        validation = self._evaluated(self.progress.best_round) or {}
        return FederationResult(
            outcome="failed" if reason else "completed",
            reason=reason,
            params=self.best,
            rounds=last,
            best_round=self.progress.best_round,
            validation={k: v for k, v in validation.items() if "@" in k or k == "mrr"},
            test=test,
            events=self.history.events,
        )

    # --- nodes

    def _wait_for_nodes(self) -> None:
        """Raises FederationError if ``min-nodes`` compatible nodes do not show up in time."""
        until = time.monotonic() + self.config.start_timeout
        while len(names := self._compatible_nodes()) < self.config.min_nodes:
            if time.monotonic() >= until:
                refused = sorted(n for n, ok in self._compatible.items() if not ok)
                raise FederationError(
                    f"{len(names)} usable nodes after start-timeout = "
                    f"{self.config.start_timeout:g} s, min-nodes = {self.config.min_nodes}; "
                    + (f"refused: {', '.join(refused)}; " if refused else "")
                    + "start more nodes or lower min-nodes"
                )
            time.sleep(POLL_SECONDS)

    def _compatible_nodes(self) -> list[str]:
        """Connected nodes with our catalog and model shape; new ones are asked first."""
        names = self.transport.nodes()
        unknown = [Instruction(n, "query") for n in names if n not in self._compatible]
        if unknown:
            for reply in self.transport.exchange(unknown, self.config.round_timeout):
                self._compatible[reply.node] = self._is_compatible(reply)
        return [n for n in names if self._compatible.get(n)]

    def _is_compatible(self, reply: Reply) -> bool:
        expected = {"catalog": self.catalog_fingerprint, "shape": self.shape.fingerprint}
        if reply.error is not None:
            log.warning("node %s: refused: it answers with error '%s'", reply.node, reply.error)
            return False
        for name, value in expected.items():
            if reply.info.get(name) != value:
                log.warning(
                    "node %s: refused: its %s is %.12s…, the run's is %.12s…; give it the run's "
                    "catalog.tsv",
                    reply.node, name, str(reply.info.get(name)), value,
                )  # fmt: skip
                return False
        return True

    def _sample(self, names: list[str], number: int) -> list[str]:
        """This round's nodes: determined by seed, round and the names of those present."""
        wanted = max(math.ceil(self.config.fraction * len(names)), self.config.min_replies)
        if wanted >= len(names):
            return names
        rng = np.random.default_rng([self.config.seed, number])
        return sorted(rng.choice(names, size=wanted, replace=False).tolist())

    # --- messages, evaluation, checkpoints

    def _exchange(self, instructions: list[Instruction]) -> list[Reply]:
        """Replies to what was asked, one per node, whatever order or number they came in."""
        asked = {(i.node, i.kind) for i in instructions}
        answered: dict[str, Reply] = {}
        if instructions:
            for reply in self.transport.exchange(instructions, self.config.round_timeout):
                if (reply.node, reply.kind) in asked and reply.node not in answered:
                    answered[reply.node] = reply
        return [answered[name] for name in sorted(answered)]

    def _evaluate_everywhere(self, of_round: int, split: Split, params: Params) -> dict[str, float]:
        names = self._compatible_nodes()
        instructions = [Instruction(n, "evaluate", of_round, params, split) for n in names]
        return self._record_evaluation(of_round, split, self._exchange(instructions))

    def _record_evaluation(
        self, of_round: int, split: Split, answered: list[Reply]
    ) -> dict[str, float]:
        """Add up the sums of all valid replies; remember the best validation model."""
        sums: dict[str, float] = {}
        for reply in answered:
            try:
                if reply.error is not None:
                    raise ReplyError(f"error '{reply.error[:80]}'")
                if reply.kind == "evaluate":
                    replies.check_evaluation(reply.metrics)
            except ReplyError as error:
                log.warning("node %s: evaluation rejected: %s", reply.node, error)
                continue
            for name, value in replies.ranking_of(reply.metrics).items():
                sums[name] = sums.get(name, 0.0) + value
        metrics = means(sums)
        if not metrics:
            return {}
        if split == "validation":
            self._note_best(of_round, metrics[SELECTION_METRIC])
        self.history.add(
            {"event": "evaluation", "round": of_round, "split": split,
             "users": int(sums["users"]), **metrics}
        )  # fmt: skip
        return metrics

    def _note_best(self, of_round: int, ndcg: float) -> None:
        if self.progress.best_round < 0 or ndcg > self.progress.best_ndcg:
            self.best = self.params
            self.progress = replace(
                self.progress, best_round=of_round, best_ndcg=ndcg, evaluations_since_best=0
            )
            self._save("best", self.best, {})
        else:
            since = self.progress.evaluations_since_best + 1
            self.progress = replace(self.progress, evaluations_since_best=since)

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.progress.evaluations_since_best

    def _evaluated(self, of_round: int) -> Event | None:
        for event in reversed(self.history.events):
            if (
                event["event"] == "evaluation"
                and event["round"] == of_round
                and event["split"] == "validation"
            ):
                return event
        return None

    def _save(self, name: str, params: Params, optimizer: server_optimizer.State) -> None:
        if self.folder is not None:
            checkpoint = Checkpoint(params, optimizer, self.progress)
            save_checkpoint(self.folder / f"{name}.safetensors", checkpoint)


def run_federation(
    config: RunConfig,
    transport: Transport,
    catalog_fingerprint: str,
    initial: Params,
    *,
    run_dir: Path | None = None,
    on_event: OnEvent | None = None,
) -> FederationResult:
    """Run ``config.rounds`` rounds from ``initial``.

    Args:
        config: the run.
        transport: the way to the nodes.
        catalog_fingerprint: of the run's catalog; nodes with another one are refused.
        initial: global parameters of round 0.
        run_dir: where to keep ``checkpoint/`` and ``history.jsonl``; nothing is kept if None.
        on_event: called with every history event.

    Returns:
        The result; ``outcome`` is "failed" if any round failed.

    Raises:
        FederationError: too few usable nodes within ``start-timeout``.
    """
    num_items = len(initial["items.weight"]) - 1
    shape = ModelShape.of(config, num_items)
    progress = Progress(0, -1, 0.0, 0, catalog_fingerprint, shape.fingerprint, config.to_flat())
    history = History(run_dir / "history.jsonl" if run_dir else None, on_event)
    start = Checkpoint(initial, {}, progress)
    return Federation(config, transport, catalog_fingerprint, shape, start, run_dir, history).run()
