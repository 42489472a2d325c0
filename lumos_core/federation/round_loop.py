"""The round loop: one for real federations and for experiments in one process.

A run waits for `min-nodes` usable nodes, lets them write their views if the method has any, trains
round after round, and ends with an evaluation on the test targets. This is a loop rather than a
state machine: the order of these phases is fixed, and only the outcome of a round decides whether
there is another one. Two tables say more: `Outcome` lists how a round can end, and `Ending` why no
further round is begun.

A round asks a sample of the nodes to train and adds up their checked deltas. It closes when all
have answered, with enough valid replies (`close-at`), or at its deadline; with `mode = async`,
with enough replies to whichever round. Only a round that got
`min-replies` valid replies changes the model; a round that failed leaves it as it was and is tried
again under the same number, with another sample. So the number of a round is also the number of
steps that the model has taken, and a resumed run continues with the next number.

A node that trains in a round also evaluates the model it *received*, in the same reply, so that
evaluation costs no extra messages; nodes that do not train get an evaluate instruction at the same
time. So the metrics of round r's model become known while round r + 1 trains. When these metrics
end the run (`patience`), nodes have already trained for round r + 1: its replies are not used.

After the last round, its model is evaluated on the validation targets, unless that is done already,
and the best model of the run on the test targets. The run is "completed" if no round failed and a
node answered this last question, and "failed" otherwise; its models are kept in both cases. With
`evaluation = none` nobody evaluates, and the last model is the result. In a run without test
targets the last question brings the result all the same, so that nodes can keep it, and is answered
with nothing. A run for which too few nodes show up at the start ends with an error.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.data.catalog_versions import Lineage
from lumos_core.errors import ConfigError, FederationError
from lumos_core.federation import evaluations
from lumos_core.federation.aggregator import Aggregator
from lumos_core.federation.closing import Close, to_ask
from lumos_core.federation.gathering import Gathering
from lumos_core.federation.membership import Membership, OnRefused
from lumos_core.federation.older_catalogs import OlderCatalogs
from lumos_core.federation.open_questions import OpenQuestions
from lumos_core.federation.outcomes import Ended, Ending, Outcome, Round
from lumos_core.federation.run_models import RunModels
from lumos_core.federation.version_notes import VersionNotes
from lumos_core.federation.view_phase import ViewPhase
from lumos_core.learning.parameters import ITEM_TABLE, ModelShape, Params
from lumos_core.privacy import budget
from lumos_core.privacy.secure_aggregation.coordinator import SecureExchange
from lumos_core.privacy.secure_aggregation.primitives import Primitives
from lumos_core.runs.checkpoint import (
    Checkpoint,
    RunProgress,
)
from lumos_core.runs.history import HISTORY, Event, History, OnEvent, utc_now
from lumos_core.runs.resume import KnownAs, StartingPoint, never, starting_point
from lumos_core.views.titles.artefact_offer import Offer
from lumos_core.wire import reply_checks
from lumos_core.wire.messages import Instruction, Reply, Split, Transport, exchange
from lumos_core.wire.versions import Versions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FederationResult:
    """How a run ended. ``outcome`` is "completed" only if no round failed. ``reason`` says why the
    run failed or, if it did not, why it ended before its last round."""

    outcome: Literal["completed", "failed"]
    reason: str
    params: Params  # of the best evaluated round, by validation NDCG@20
    rounds: int
    best_round: int
    validation: dict[str, float]
    test: dict[str, float]
    events: list[Event]
    title_weight: float = 0.0  # of the titles' nearness, in the rankings of the best round
    epsilon: float | None = None  # spent; None without differential privacy or without noise


class Federation:
    """One run. Use :func:`run_federation`.

    It reaches nodes only through a :class:`~lumos_core.wire.messages.Transport`: ``server_app``
    implements one over Flower's Grid, :mod:`lumos_core.federation.in_process` one that calls nodes
    directly.
    """

    def __init__(
        self,
        config: RunConfig,
        transport: Transport,
        start: StartingPoint,
        history: History,
        *,
        run_dir: Path | None = None,
        primitives: Primitives | None = None,
        started: Event | None = None,
        on_refused: OnRefused = lambda refused: None,
        offer: Offer | None = None,
        lineage: Lineage | None = None,
    ) -> None:
        self.catalogs = OlderCatalogs(transport, config, lineage)
        self.config, self.transport, self.offer = config, self.catalogs, offer
        self.models = RunModels(config, start, run_dir)
        self.history = history
        self.budget = budget.Budget.of(config, history.events)
        self.secure: SecureExchange | None = None
        if config.secure_aggregation:
            if primitives is None:
                raise ConfigError("secure-aggregation = true: this kind of run has no cryptography")
            self.secure = SecureExchange(config, self.transport, primitives)
        self.versions = VersionNotes(history, started)
        progress = self.models.progress
        expected = {"catalog": progress.catalog, "shape": progress.shape}

        def note(name: str, found: Versions, words: str) -> None:
            self.versions.note(name, found, words, self.models.progress.round)

        self.members = Membership(
            self.transport, expected, note, config.nodes, on_refused, self.catalogs
        )
        self.gathering: Gathering  # while there are rounds
        self.late_count = config.mode == "async"

    # --- the run

    def run(self) -> FederationResult:
        self._wait_for_nodes()
        self.models.save_best()
        self.models.save_newest()
        self.versions.write_early()
        if self.config.has_views and self.config.view_timeout and self._ended() is None:
            ViewPhase(self.config, self.transport, self.members, self.history, self.offer).run()
        return self._finish(self._rounds())

    def _rounds(self) -> Ended:
        """Round after round, until there is a reason to stop."""
        with self.transport.talk() as talk:
            self.gathering = Gathering(self.config, self.members, OpenQuestions(talk), self.secure)
            return self._until_ended()

    def _until_ended(self) -> Ended:
        failed_in_a_row = 0
        begins = self.models.progress.round == 0 and not self._evaluated(0)
        if begins and self.late_count and self.config.holds_out:
            self._evaluate_everywhere(0, "validation", self.models.params)
        if self.late_count and len(self.members.users) <= self.config.buffer_size:
            log.warning(
                "buffer-size = %d of %d nodes: rounds wait for the slowest; lower it",
                self.config.buffer_size, len(self.members.users),
            )  # fmt: skip
        while (ended := self._ended() or self._budget_used_up()) is None:
            outcome, problem = self._round(self.models.progress.round + 1)
            failed_in_a_row = failed_in_a_row + 1 if outcome is Outcome.FAILED else 0
            if failed_in_a_row > self.config.max_failed_rounds:
                reason = f"gave up: {failed_in_a_row} failed rounds in a row; the last: {problem}"
                return Ended(Ending.GAVE_UP, reason)
        return ended

    def _ended(self) -> Ended | None:
        if self.models.progress.round >= self.config.rounds:
            return Ended(Ending.ALL_ROUNDS)
        return Ended(Ending.PATIENCE) if self.models.out_of_patience else None

    def _budget_used_up(self) -> Ended | None:
        self.budget.users |= self.members.users
        reason = self.budget.exhausted(self.members.users)
        if not reason:
            return None
        log.info("%s", reason)
        return Ended(Ending.BUDGET, reason)

    def _round(self, number: int) -> Round:
        """Let nodes train once, and record the outcome in the history."""
        started = time.monotonic()
        until = started + self.config.round_timeout
        self.members.begin_round()
        left_out = self.members.left_out
        names = self.members.wait_for(
            self.config.min_replies, self.config.round_timeout, self._at_hand
        )
        at_work = self.gathering.at_work()
        busy = sorted(at_work & set(names))
        able = [name for name in names if self.budget.allows(name)]
        free = [name for name in able if name not in at_work]
        aggregator = Aggregator(self.config, self.models.params, number, items=self.catalogs.items)
        answered: list[Reply] = []
        usable = len(free) + (len(at_work) if self.late_count else 0)
        if usable >= self.config.min_replies:
            wanted = to_ask(self.config, len(able)) - (len(at_work) if self.late_count else 0)
            sampled = self._sample(free, max(wanted, 0), number)
            evaluating = sorted(set(names) - set(sampled) - at_work)
            close = (
                Close.of_buffer(self.config, len(sampled) + len(at_work))
                if self.late_count
                else Close.of(self.config, len(able), len(sampled), len(evaluating))
            )
            answered = self._ask(number, sampled, evaluating, close, aggregator, until)
            if self.models.out_of_patience:
                return self._unused(aggregator)
        event: Event = {
            "round": number,
            "time": utc_now(),
            "seconds": round(time.monotonic() - started, 3),
            "bytes_up": sum(r.bytes_up for r in answered),
            "bytes_down": sum(r.bytes_down for r in answered),
            "nodes_ok": len(aggregator.names),
            "ok": aggregator.names,
            "failed": [{"node": n, "reason": r} for n, r in sorted(aggregator.failed.items())],
            **self._standings(aggregator, busy, left_out),
        }
        if len(aggregator.names) < self.config.min_replies:
            return self._failed(aggregator, event, usable)
        return self._trained(aggregator, event)

    def _unused(self, aggregator: Aggregator) -> Round:
        spent = self._spend(aggregator, ())
        if spent:
            event = {"event": Outcome.UNUSED.event, "round": aggregator.round}
            self.history.add({**event, **spent})
        return Round(Outcome.UNUSED)

    def _failed(self, aggregator: Aggregator, event: Event, usable: int) -> Round:
        problem = (
            f"{len(aggregator.names)} valid replies of {usable} usable nodes, "
            f"min-replies = {self.config.min_replies}"
        )
        spent = self._spend(aggregator, ())
        self.history.add({"event": Outcome.FAILED.event, **event, **spent, "reason": problem})
        log.error("round %d failed: %s; the model stays as it was", aggregator.round, problem)
        return Round(Outcome.FAILED, problem)

    def _trained(self, aggregator: Aggregator, event: Event) -> Round:
        self.models.step(aggregator.delta(), aggregator.round)
        # The history's line is written before the checkpoint. A checkpoint without its line would
        # look like a lost history; a line without its checkpoint is dropped on resume.
        spent = self._spend(aggregator, aggregator.names)
        self.history.add({"event": Outcome.TRAINED.event, **event, **aggregator.facts(), **spent})
        self.models.save_newest()
        if not self.config.holds_out:  # what is newest is in use, also if the server dies
            self.models.take_newest()
        return Round(Outcome.TRAINED)

    def _spend(self, aggregator: Aggregator, used: Sequence[str]) -> Event:
        """What a round cost in privacy.

        Args:
            used: nodes whose replies are part of the new model.
        """
        if self.config.dp != "central":  # a late reply was paid for when it was asked for
            used = [name for name in used if name in aggregator.asked]
        self.members.users |= aggregator.users()
        self.budget.users |= self.members.users
        return self.budget.spend(used, [n for n in aggregator.asked if n not in used])

    @property
    def _evaluates_in_rounds(self) -> bool:
        return self.config.holds_out and not self.late_count

    def _standings(self, aggregator: Aggregator, busy: list[str], left_out: list[str]) -> Event:
        """Whom a round did not wait for, and whose reply is to an earlier model, if anyone's."""
        if self.late_count:
            named: Event = {
                "staleness": aggregator.staleness, "working": sorted(self.gathering.working())
            }  # fmt: skip
        else:
            named = {"late": aggregator.late, "busy": busy}
        return {key: names for key, names in {**named, "left_out": left_out}.items() if names}

    def _at_hand(self, names: list[str]) -> list[str]:
        """Those of these nodes whose reply can be part of the round that begins."""
        at_work = self.gathering.at_work()
        return [
            name
            for name in names
            if (self.late_count if name in at_work else self.budget.allows(name))
        ]

    def _ask(
        self, number: int, sampled: list[str], others: list[str], close: Close,
        aggregator: Aggregator, until: float,
    ) -> list[Reply]:  # fmt: skip
        """Ask the sampled nodes to train. When an evaluation is due, they and all others evaluate
        the model that they receive.

        Returns:
            The replies that were used, and those that came too late for an earlier round.
        """
        due = (number - 1) % self.config.evaluate_every == 0 and self._evaluates_in_rounds
        # When a failed round is tried again, the model may have been evaluated already.
        evaluate: Split | None = "validation" if due and not self._evaluated(number - 1) else None
        params, weight = self.models.params, self.models.progress.title_weight
        instructions = [
            Instruction(n, "train", number, params, evaluate, title_weight=weight) for n in sampled
        ]
        if evaluate:
            instructions += [
                Instruction(n, "evaluate", number - 1, params, evaluate, title_weight=weight)
                for n in others
            ]
        else:
            close = close._replace(evaluations=0)
        aggregator.asked = sampled
        if note := self.budget.ask(sampled):
            self.history.add({"event": "asked", "round": number, "time": utc_now(), **note})
        answered, late = self.gathering.exchange(instructions, close, aggregator, until)
        if evaluate:  # rejected train replies do not count
            counted = [r for r in answered if r.kind == "evaluate" or r.node in aggregator.accepted]
            self._record_evaluation(number - 1, evaluate, counted)
        return [*answered, *late]

    def _finish(self, ended: Ended) -> FederationResult:
        """Evaluate the last model, then the best one on the test targets; or else hand it out."""
        last = self.models.progress.round
        if self.config.holds_out and not self._evaluated(last):
            self._evaluate_everywhere(last, "validation", self.models.params)
        self.models.save_newest()  # once more, with the last evaluation
        self.models.settle()
        best = self.models.progress.best_round
        test: dict[str, float] | None = {}
        if self.config.tests:
            test = self._evaluate_everywhere(best, "test", self.models.best)
        else:
            self._hand_out()
        failure = self._failure(ended, test)
        validation = self._evaluated(best) or {}
        return FederationResult(
            outcome="failed" if failure else "completed",
            reason=failure or ended.reason,
            params=self.models.best,
            rounds=last,
            best_round=best,
            validation={k: v for k, v in validation.items() if "@" in k or k == "mrr"},
            test=test or {},
            events=self.history.events,
            title_weight=self.models.progress.title_weight,
            epsilon=self.budget.spent(),
        )

    def _failure(self, ended: Ended, test: dict[str, float] | None) -> str:
        """Why the run counts as failed, or nothing.

        Args:
            test: test metrics; empty without a test and without users to test with; None if no
                valid reply came.
        """
        if ended.ending.fails:
            return ended.reason
        failed = sum(event["event"] == Outcome.FAILED.event for event in self.history.events)
        if failed:
            return f"{failed} rounds failed (see history.jsonl)"
        # In a window of days it may be that no node has enough users to report. With leave-one-out
        # all users are in the test, and a report about none is no answer.
        few = test is not None and self.config.evaluation == "last-days"
        if test or few or not self.config.tests:
            return ""
        return "no node answered the final evaluation"

    # --- nodes

    def _wait_for_nodes(self) -> None:
        """Raises FederationError if ``min-nodes`` compatible nodes do not show up in time."""
        names = self.members.wait_for(self.config.min_nodes, self.config.start_timeout)
        if len(names) < self.config.min_nodes:
            refused = self.members.refused
            told = f"refused: {', '.join(refused)}" if refused else ""
            first = f" ({next(iter(refused.values()))}); " if refused else ""
            raise FederationError(
                f"{len(names)} usable nodes after start-timeout = {self.config.start_timeout:g} s, "
                f"min-nodes = {self.config.min_nodes}; "
                f"{told}{first}start more nodes or lower min-nodes{self._other_choice()}"
            )

    def _other_choice(self) -> str:
        return f", or change nodes = {self.config.nodes!r}" if self.config.nodes else ""

    def _sample(self, names: list[str], wanted: int, number: int) -> list[str]:
        """This round's nodes: determined by seed, round, attempt and the names of those present.

        The attempt counts because a failed round is tried again with other nodes: the same dead
        node need not make it fail twice.
        """
        if wanted >= len(names):
            return names
        attempt = sum(
            event["event"] == Outcome.FAILED.event and event["round"] == number
            for event in self.history.events
        )
        rng = np.random.default_rng([self.config.seed, number, attempt])
        return sorted(rng.choice(names, size=wanted, replace=False).tolist())

    # --- messages, evaluation, checkpoints

    def _evaluate_everywhere(
        self, of_round: int, split: Split, params: Params
    ) -> dict[str, float] | None:
        """Metrics of a model; see :meth:`_record_evaluation`."""
        answered = self._ask_everybody(of_round, split, params)
        traffic = {
            "bytes_up": sum(r.bytes_up for r in answered),
            "bytes_down": sum(r.bytes_down for r in answered),
        }
        return self._record_evaluation(of_round, split, answered, traffic)

    def _hand_out(self) -> None:
        """Send the run's result to all nodes, in the form of the question after the test targets:
        nodes keep what comes with it as the result (:mod:`client_app.received_model`). Otherwise
        they would go on with that of an earlier run. What they answer does not matter."""
        answered = self._ask_everybody(self.models.progress.best_round, "test", self.models.best)
        failed = {r.node: f"error {r.error[:80]!r}" for r in answered if r.error is not None}
        silent = set(self.members.users) - {r.node for r in answered}
        for name, why in sorted((failed | dict.fromkeys(silent, "no reply")).items()):
            log.warning("node %s: may lack the run's result: %s", name, why)

    def _ask_everybody(self, of_round: int, split: Split, params: Params) -> list[Reply]:
        """Ask all nodes that are there to evaluate a model."""
        weight = self.models.progress.title_weight
        instructions = [
            Instruction(name, "evaluate", of_round, params, split, title_weight=weight)
            for name in self.members.present()
        ]
        return exchange(self.transport, instructions, self.config.round_timeout)

    def _record_evaluation(
        self, of_round: int, split: Split, answered: list[Reply], traffic: Event | None = None
    ) -> dict[str, float] | None:
        """Add up the sums of all valid replies; remember the best validation model.

        Args:
            traffic: bytes of the evaluation's own messages; None if it shared those of a training.

        Returns:
            Means over users; empty if the valid replies are about no users, None if none is valid.
        """
        chosen = (self.models.progress.title_weight,)
        weights = self.config.title_weights if split == "validation" else chosen
        valid, failed = evaluations.checked(answered, weights)
        event = evaluations.evaluation_event(self.config, of_round, split, valid, weights)
        if event is None:
            return {} if valid else None
        event |= {**(traffic or {}), **({"failed": failed} if failed else {})}
        self.history.add(event)
        if split == "validation":
            self.models.note_evaluation(event)
        return {name: event[name] for name in reply_checks.RANKING if name != "users"}

    def _evaluated(self, of_round: int) -> Event | None:
        for event in reversed(self.history.events):
            if (
                event["event"] == "evaluation"
                and event["round"] == of_round
                and event["split"] == "validation"
            ):
                return event
        return None


def run_federation(
    config: RunConfig,
    transport: Transport,
    catalog_fingerprint: str,
    initial: Params,
    *,
    run_dir: Path | None = None,
    on_event: OnEvent | None = None,
    resume: bool = False,
    primitives: Primitives | None = None,
    known_as: KnownAs = never,
    started: Event | None = None,
    on_refused: OnRefused = lambda refused: None,
    offer: Offer | None = None,
    lineage: Lineage | None = None,
) -> FederationResult:
    """Run rounds until there have been ``config.rounds``.

    Args:
        config: the run.
        transport: the way to the nodes.
        catalog_fingerprint: of the run's catalog; nodes with another one are refused.
        initial: global parameters of round 0.
        run_dir: where to keep ``checkpoint/`` and ``history.jsonl``; nothing is kept if None.
        on_event: called with every new history event.
        resume: continue the run in ``run_dir``, if there is one. It reaches the same parameters as
            without a stop; only ``resume.free_keys`` may differ from its configuration.
        primitives: the cryptography of ``secure-aggregation``.
        known_as: whether a fingerprint in the files of the run to resume is another valid one of
            the run's catalog (see :meth:`~lumos_core.data.catalog.Catalog.is_known_as`).
        started: the event that says where ``initial`` is from, if it was trained before.
        on_refused: called with the nodes that are refused at the moment, and why.
        offer: the catalog artefact, for nodes that lack it.
        lineage: the run's catalog and the versions before it; nodes with one of these take part.

    Returns:
        The result; ``outcome`` is "failed" if any round failed.

    Raises:
        FederationError: too few usable nodes within ``start-timeout``.
        ConfigError: the run in ``run_dir`` has another configuration, or ``resume`` is false and
            there is one already.
        ModelError: its checkpoint or history is damaged or for another catalog or model.
    """
    shape = ModelShape.of(config, len(initial[ITEM_TABLE]) - 1)
    progress = RunProgress(0, -1, 0.0, 0, catalog_fingerprint, shape.fingerprint, config.to_flat())
    start = starting_point(run_dir, Checkpoint(initial, {}, progress), resume, known_as)
    history = History(run_dir / HISTORY if run_dir else None, on_event, start.events)
    return Federation(
        config,
        transport,
        start,
        history,
        run_dir=run_dir,
        primitives=primitives,
        started=started,
        on_refused=on_refused,
        offer=offer,
        lineage=lineage,
    ).run()
