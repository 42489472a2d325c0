"""A loop over clients in the manner of FELLAS's published code, as a yardstick for speed.

FELLAS (Yuan et al., "Privacy-preserving Federated Sequential Recommendation with LLM as External
Service") trains one client after the other with one model: it loads the global parameters into it,
trains on the client's sequence, one step an epoch, copies the whole state, and subtracts what was
loaded. It evaluates one client after the other too: encode a history, score the catalog, hide the
history, look for the target among the 20 best.

The loop is written anew in that manner, for LUMOS's model, loss and optimiser, so that what differs
in speed is how clients are gone through, and not what they compute. It has no codec and no noise,
and it ranks without the nearness of titles. Its deltas are those of a node for each user.

``benchmarks/one_user_clients.py`` measures it beside the others.
"""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch

from lumos_core.config import RunConfig
from lumos_core.data import LeaveOneOut, Sequences
from lumos_core.federation.node import training_metrics, training_seed
from lumos_core.federation.one_user_clients import client_names
from lumos_core.learning.batching import pad
from lumos_core.learning.metrics import ranking_sums
from lumos_core.learning.model import build_model, get_params, set_params
from lumos_core.learning.parameters import ModelShape, Params
from lumos_core.learning.training import Trainer, TrainingSet, TrainSums
from lumos_core.views.view import Views
from lumos_core.wire.codecs import wire_bytes
from lumos_core.wire.messages import Instruction, Metrics, Reply, Talk, in_turn
from lumos_core.wire.reply_checks import evaluation_metrics

BEST = 20
"""Targets beyond this rank count as missed."""


class FellasStyle:
    """A :class:`~lumos_core.wire.messages.Transport` to clients that are gone through one by one.

    Args:
        items: N.
        users: each is a client.
        config: the run's configuration.
        views: of the users that have some.
    """

    def __init__(self, items: int, users: Sequences, config: RunConfig, views: Views) -> None:
        self.config, self._views = config, views
        self._split = LeaveOneOut(users)
        self._train = self._split.train()
        self._users = {name: user for user, name in enumerate(client_names(len(users)))}
        self._model = build_model(ModelShape.of(config, items), config.dropout)

    def nodes(self) -> list[str]:
        return list(self._users)

    def talk(self) -> AbstractContextManager[Talk]:
        return in_turn(self)

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        """Evaluates all clients that are to, then trains all that are to."""
        ranked = self._evaluated([i for i in instructions if i.evaluate])
        replies = []
        for instruction in instructions:
            if instruction.kind == "train":
                replies.append(self._trained(instruction, ranked.get(instruction.node, {})))
            elif instruction.kind == "evaluate":
                metrics = ranked[instruction.node]
                replies.append(Reply(instruction.node, "evaluate", metrics=metrics))
        return replies

    def _trained(self, asked: Instruction, ranking: Metrics) -> Reply:
        received = asked.params
        assert received is not None
        set_params(self._model, received)
        user = self._users[asked.node]
        own = {0: self._views[user]} if user in self._views else None
        data = TrainingSet.build(self._train.subset([user]), self.config.max_len, own)
        seed = training_seed(self.config, asked.round, asked.node)
        trainer, sums = Trainer(self._model, data, self.config, seed), TrainSums()
        for _ in range(self.config.local_epochs):
            sums.add(trainer.epoch())
        state = copy.deepcopy(get_params(self._model))
        delta: Params = {name: state[name] - received[name] for name in received}
        told = training_metrics(self.config, sums, True)
        size = wire_bytes(delta)
        return Reply(asked.node, "train", delta, {**ranking, **told}, bytes_up=size)

    def _evaluated(self, asked: Sequence[Instruction]) -> dict[str, Metrics]:
        """The metrics of every client."""
        if not asked:
            return {}
        received = asked[0].params
        assert received is not None
        set_params(self._model, received)
        self._model.eval()
        held_out = {"validation": self._split.validation, "test": self._split.test}
        histories, targets = held_out[asked[0].evaluate or "test"]()
        found: dict[str, Metrics] = {}
        with torch.no_grad():
            for instruction in asked:
                user = self._users[instruction.node]
                rank = self._rank(histories[user], int(targets[user]))
                sums = ranking_sums(np.array([rank]))
                found[instruction.node] = evaluation_metrics(
                    dict.fromkeys(self.config.title_weights, sums)
                )
        self._model.train()
        return found

    def _rank(self, history: np.ndarray, target: int) -> float:
        items, lengths = pad([history], self.config.max_len)
        hidden = self._model.encode_last(torch.from_numpy(items), torch.from_numpy(lengths))
        scores = self._model.scores(hidden)[0]
        own = scores[target - 1].item()
        scores[torch.from_numpy(history.astype(np.int64) - 1)] = -torch.inf
        scores[target - 1] = own  # a repeated purchase
        best = torch.topk(scores, min(BEST, len(scores))).indices + 1
        at = (best == target).nonzero()
        return float(at[0, 0] + 1) if len(at) else float("inf")
