"""A population of clients with one user each, in one process: what InProcessTransport with a node
for each user does, at a fraction of the cost.

The clients of a round are trained together
(:mod:`~lumos_core.learning.stacked_training`); then each client's delta goes the way of every
node's: noise, codec, checks, clipping, aggregation are the same code. The global model ranks the
items of all users at once, and one reply holds the sums over all clients, as under secure
aggregation. Views come from one store. All clients have the same names and seeds as nodes would.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut
from lumos_core.federation import aggregation
from lumos_core.federation.closing import wanted
from lumos_core.federation.error_feedback import Residuals
from lumos_core.federation.node import Outgoing, description, training_metrics, training_seed
from lumos_core.federation.one_user_clients import check_one_user_clients, client_names
from lumos_core.federation.round_memory import RoundMemory, check_memory
from lumos_core.learning.evaluation import evaluate
from lumos_core.learning.metrics import ranking_sums
from lumos_core.learning.model import build_model, set_params
from lumos_core.learning.parameters import ITEM_TABLE, ModelShape, Params
from lumos_core.learning.stacked_training import CHUNK_BYTES, StackedTrainer
from lumos_core.learning.threads import in_threads
from lumos_core.learning.title_nearness import TitleNearness
from lumos_core.privacy import noise
from lumos_core.views.view import Views, ViewSource, no_views
from lumos_core.wire.codecs import wire_bytes
from lumos_core.wire.messages import Instruction, Metrics, Reply, Rows, Talk, in_turn
from lumos_core.wire.reply_checks import evaluation_metrics, preparation

KINDS = ("describe", "prepare", "evaluate", "train")
"""The instructions that one-user clients know."""


class Population:
    """A :class:`~lumos_core.wire.messages.Transport` to clients with one user each.

    Args:
        catalog: the public catalog.
        users: each is a client; with at least three interactions.
        config: the run's configuration.
        views: where views come from; asked once, for all users.
        chunk_bytes: memory of the clients that are trained at a time, roughly.

    Raises:
        ConfigError: as :func:`~lumos_core.federation.one_user_clients.check_one_user_clients`, or
            the deltas of a round do not fit into memory.
        DataError: a user has fewer than three interactions.
    """

    def __init__(
        self,
        catalog: Catalog,
        users: Sequences,
        config: RunConfig,
        views: ViewSource = no_views,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        check_one_user_clients(config)
        self.catalog, self.config = catalog, config
        self._split = LeaveOneOut(users)
        self._train = self._split.train()
        self._names = client_names(len(users))
        self._users = {name: user for user, name in enumerate(self._names)}
        self._source = views
        self._views: Views | None = None
        self._shape = ModelShape.of(config, len(catalog))
        self._model = build_model(self._shape)
        self._trainer = StackedTrainer(config, len(catalog), chunk_bytes)
        self._titles: TitleNearness | None = None
        self._by_rows = sends_rows(config)
        check_memory(self._memory(), config)
        self._outgoing: dict[str, Outgoing] = {}

    def nodes(self) -> list[str]:
        return self._names

    def talk(self) -> AbstractContextManager[Talk]:
        return in_turn(self)

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        by_kind = {kind: [i for i in instructions if i.kind == kind] for kind in KINDS}
        evaluated = self._evaluated(by_kind["evaluate"], by_kind["train"])
        trained = self._trained(by_kind["train"])
        if trained and not evaluated:
            first = trained[0]
            metrics = first.metrics | self._ranking(by_kind["train"])
            trained[0] = replace(first, metrics=metrics)
        return [
            *self._described(by_kind["describe"]),
            *self._prepared(by_kind["prepare"]),
            *evaluated,
            *trained,
        ]

    # --- answers

    def _described(self, asked: Iterable[Instruction]) -> list[Reply]:
        about = description("", self.catalog, self._shape, 1)
        return [Reply(i.node, "describe", info={**about, "name": i.node}) for i in asked]

    def _prepared(self, asked: Iterable[Instruction]) -> list[Reply]:
        return [
            Reply(i.node, "prepare", metrics=preparation(self._complete(i.node), True))
            for i in asked
        ]

    def _evaluated(
        self, asked: Sequence[Instruction], training: Sequence[Instruction]
    ) -> list[Reply]:
        """One reply for all clients that only evaluate. It holds the sums over them and over those
        that also train, whose own replies count no users then."""
        if not asked:
            return []
        down = sum(wire_bytes(i.params) for i in asked if i.params is not None)
        return [
            Reply(
                asked[0].node, "evaluate", metrics=self._ranking([*asked, *training]),
                sum_of=tuple(i.node for i in asked), bytes_down=down,
            )
        ]  # fmt: skip

    def _trained(self, asked: Sequence[Instruction]) -> list[Reply]:
        """A reply of each client, in the order of the instructions."""
        if not asked:
            return []
        params, round = asked[0].params, asked[0].round
        assert params is not None
        names = [i.node for i in asked]
        users = [self._users[name] for name in names]
        known = self._all_views()
        views = {at: known[user] for at, user in enumerate(users) if user in known}
        seeds = [training_seed(self.config, round, name) for name in names]
        nobody = self._nobody(asked[0])
        replies: dict[int, Reply] = {}
        for found in self._trainer.train(params, self._train.subset(users), views, seeds):
            name = names[found.client]
            delta, rows = (found.arrays, found.rows) if self._by_rows else (found.delta, None)
            arrays = self._outgoing_of(name).encoded(delta, round)
            told = training_metrics(self.config, found.sums, self._complete(name))
            replies[found.client] = Reply(
                name, "train", arrays, {**nobody, **told}, rows=rows,
                bytes_up=wire_bytes(arrays) + unsent_bytes(arrays, rows, params),
                bytes_down=wire_bytes(params),
            )  # fmt: skip
        return [replies[at] for at in range(len(asked))]

    # --- parts of an answer

    def _ranking(self, asked: Sequence[Instruction]) -> Metrics:
        """The sums over the users of all clients that are asked to evaluate, if any are."""
        asked = [i for i in asked if i.evaluate]
        if not asked:
            return {}
        first = asked[0]
        assert first.params is not None
        assert first.evaluate is not None
        held_out = {"validation": self._split.validation, "test": self._split.test}
        histories, targets = held_out[first.evaluate]()
        users = np.array([self._users[i.node] for i in asked], dtype=np.int64)
        set_params(self._model, first.params)
        weights = self._weights(first)
        if any(weights) and self._titles is None:
            self._titles = TitleNearness.of(self.catalog)

        def ranked(some: np.ndarray) -> dict[float, dict[str, float]]:
            own = histories.subset(some)
            return evaluate(self._model, own, targets[some], self._titles, weights)

        threads = torch.get_num_threads()
        parts = [(users[at::threads],) for at in range(min(threads, len(users)))]
        found = [evaluation_metrics(sums) for sums in in_threads(ranked, parts, threads)]
        return {name: sum(part[name] for part in found) for name in found[0]}

    def _nobody(self, asked: Instruction) -> Metrics:
        """The metrics of an evaluation that counts no users; none if no evaluation is asked for."""
        if not asked.evaluate:
            return {}
        nobody = ranking_sums(np.zeros(0))
        return evaluation_metrics(dict.fromkeys(self._weights(asked), nobody))

    def _weights(self, asked: Instruction) -> tuple[float, ...]:
        if asked.evaluate == "validation":
            return self.config.title_weights
        return (asked.title_weight,)

    def _memory(self) -> RoundMemory:
        """Of a round in which every client is there; a client is taken to have the mean history."""
        shapes = {name: tuple(array.shape) for name, array in self._model.state_dict().items()}
        met = np.minimum(self._train.lengths, self.config.max_len).mean()
        rows = math.ceil(met) if self._by_rows else None
        population = len(self._names)
        clients = min(wanted(self.config, population), population)
        return RoundMemory.of(shapes, rows, clients, population)

    def _outgoing_of(self, name: str) -> Outgoing:
        """Kept, because its residuals and its key are those of the whole run."""
        if name not in self._outgoing:
            key = noise.node_key(None)
            self._outgoing[name] = Outgoing(name, self.config, Residuals(), key)
        return self._outgoing[name]

    def _all_views(self) -> Views:
        if self._views is None:
            self._views = self._source(self._train)
        return self._views

    def _complete(self, name: str) -> bool:
        return self._source is no_views or self._users[name] in self._all_views()


def sends_rows(config: RunConfig) -> bool:
    """Whether the item table of a delta can do without the rows that its client never met.

    With ``item-rows = met`` these rows are zero. Without them everything must come out as it does
    with them: codecs that treat each value by itself, no noise on zeros, a mean of the tables.
    """
    return (
        config.trains_met_rows
        and config.dp == "none"
        and config.delta_codec in ("float32", "float16")
        and aggregation.rule(config.rule).averages_table
    )


def unsent_bytes(arrays: Params, rows: Rows | None, like: Params) -> int:
    """Payload bytes of the item table's rows that are not in ``arrays``, but that a node sends."""
    if rows is None:
        return 0
    table = arrays[ITEM_TABLE]
    return (len(like[ITEM_TABLE]) - len(rows)) * int(table.shape[1] * table.itemsize)
