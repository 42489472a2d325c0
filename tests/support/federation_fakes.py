"""Nodes without torch and a transport that misbehaves as told."""

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.federation import server_optimizer
from lumos_core.federation.aggregator import Aggregator
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.federation.simulated_speeds import SimulatedSpeeds
from lumos_core.learning.parameters import ModelShape, Params
from lumos_core.runs.checkpoint import OptimizerState
from lumos_core.runs.history import Event
from lumos_core.wire import versions
from lumos_core.wire.codecs import codec
from lumos_core.wire.messages import Instruction, Metrics, Reply, Talk, in_turn
from lumos_core.wire.reply_checks import evaluation_names, preparation

ITEMS = 6
CATALOG = "c" * 64
NAMES = ("ann", "bob", "cy", "dee", "eve", "fay")
SLOW = {"fay": 10.0}
"""Seconds that a node needs to answer, with a simulated clock; the others need one."""
Distort = Callable[[Instruction, Reply], Sequence[Reply]]
"""What arrives in place of a node's honest reply: nothing, something else, several things."""


def start() -> Params:
    """Not in alphabetical order, so that a reordering would be noticed."""
    rng = np.random.default_rng(0)
    return {
        "items.weight": rng.normal(size=(ITEMS + 1, 4)).astype("f4"),
        "blocks.0.w": rng.normal(size=(4, 4)).astype("f4"),
        "a.bias": rng.normal(size=4).astype("f4"),
    }


class FakeNode:
    """Answers honestly and deterministically, as a function of its name, the round, the model."""

    def __init__(self, name: str, config: RunConfig, users: int = 10) -> None:
        self.name, self.config, self.users = name, config, users
        self.catalog = CATALOG
        self.shape = ModelShape.of(config, ITEMS).fingerprint
        self.versions = versions.own()

    def answer(self, instruction: Instruction) -> Reply:
        reply = Reply(instruction.node, instruction.kind, bytes_up=7, bytes_down=11)
        if instruction.kind == "describe":
            info = {"name": self.name, "catalog": self.catalog, "shape": self.shape}
            return replace(reply, info={**info, **self.versions.to_info()})
        if instruction.kind == "prepare":
            return replace(reply, metrics=preparation(True, True, 100))
        assert instruction.params is not None
        metrics = self._evaluation(instruction) if instruction.evaluate else {}
        if instruction.kind == "evaluate":
            return replace(reply, metrics=metrics)
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), instruction.round])
        delta = {
            n: (0.1 * rng.normal(size=a.shape) - 0.1 * a).astype("f4")
            for n, a in instruction.params.items()
        }
        delta["items.weight"][0] = 0.0  # padding has no gradient
        counts: Metrics = {
            "users": self.users, "examples": 5 * self.users, "loss": 9.0 * self.users,
            "contrastive": 0.0, "contrastive-users": 0, "views-complete": 1, "seconds": 0.01,
        }  # fmt: skip
        arrays = codec(self.config.delta_codec).encode(delta, rng)
        return replace(reply, arrays=arrays, metrics={**counts, **metrics})

    def _evaluation(self, instruction: Instruction) -> Metrics:
        """A hit rate that goes up and down with the model."""
        assert instruction.params is not None
        total = sum(float(np.abs(a).sum(dtype=np.float64)) for a in instruction.params.values())
        share = 0.5 + 0.5 * np.sin(100 * total + len(instruction.evaluate or ""))
        weights = (instruction.title_weight,)
        if instruction.evaluate == "validation":
            weights = self.config.title_weights
        sums: Metrics = dict.fromkeys(evaluation_names(weights), self.users * share)
        return {**sums, "eval-users": float(self.users)}


class FakeTransport:
    """Carries instructions to fake nodes; ``distort`` may spoil what comes back."""

    def __init__(self, nodes: Sequence[FakeNode], distort: Distort | None = None) -> None:
        self.known = {node.name: node for node in nodes}
        self.connected = [node.name for node in nodes]
        self.distort = distort
        self.asked: list[Instruction] = []
        self.deadlines: list[float] = []

    def nodes(self) -> list[str]:
        return list(self.connected)

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        self.asked += instructions
        self.deadlines.append(deadline)
        replies: list[Reply] = []
        for instruction in instructions:
            reply = self.known[instruction.node].answer(instruction)
            replies += [reply] if self.distort is None else self.distort(instruction, reply)
        return replies

    def talk(self) -> AbstractContextManager[Talk]:
        return in_turn(self)

    def last_model(self) -> Params:
        """The model after the last round, which everybody is asked to evaluate."""
        found = [i.params for i in self.asked if i.evaluate == "validation"][-1]
        assert found is not None
        return found

    def trained(self) -> list[tuple[int, list[str]]]:
        """Who was asked to train, round by round as they came."""
        rounds: list[tuple[int, list[str]]] = []
        for instruction in self.asked:
            if instruction.kind != "train":
                continue
            if (
                rounds
                and rounds[-1][0] == instruction.round
                and (instruction.node not in rounds[-1][1])
            ):
                rounds[-1][1].append(instruction.node)
            else:
                rounds.append((instruction.round, [instruction.node]))
        return rounds


def only(node: str, kind: str, change: Callable[[Reply], Sequence[Reply]]) -> Distort:
    """Distort one node's replies of one kind."""

    def distort(instruction: Instruction, reply: Reply) -> Sequence[Reply]:
        return change(reply) if (instruction.node, instruction.kind) == (node, kind) else [reply]

    return distort


# ---------------------------------------------------------------- nodes of different speeds
def six_nodes(config: RunConfig) -> FakeTransport:
    return FakeTransport([FakeNode(n, config, users=3 + i) for i, n in enumerate(NAMES)])


def run_at_speeds(
    config: RunConfig, speeds: dict[str, float] = SLOW, **options: Any
) -> tuple[FederationResult, SimulatedSpeeds]:
    """A federation of :func:`six_nodes`, and its transport, with the clock."""
    transport = SimulatedSpeeds(six_nodes(config), speeds)
    return run_federation(config, transport, CATALOG, start(), **options), transport


def rounds_of(result: FederationResult) -> list[Event]:
    return [e for e in result.events if e["event"] == "round"]


def replayed(config: RunConfig, events: Sequence[Event]) -> Params:
    """The model that the history describes: each named node's delta to the model that it had."""
    nodes = six_nodes(config).known
    models, optimizer = [start()], OptimizerState()
    for event in events:
        aggregator = Aggregator(config, models[-1], event["round"])
        for name in event["ok"]:
            age = event.get("staleness", {}).get(name, 0)
            number = event["round"] - age
            asked = Instruction(name, "train", number, models[number - 1])
            aggregator.offer(nodes[name].answer(asked), evaluated=False, staleness=age)
        params, optimizer = server_optimizer.step(models[-1], aggregator.delta(), optimizer, config)
        models.append(params)
    return models[-1]


def same(a: Params, b: Params) -> bool:
    """To the last bit; the order of arrays does not count."""
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)
