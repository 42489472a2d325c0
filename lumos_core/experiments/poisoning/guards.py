"""Defences that are more than a configuration: what honest nodes and the server do differently."""

from collections.abc import Sequence
from dataclasses import dataclass

from lumos_core.config import RunConfig
from lumos_core.experiments.poisoning.guarded_training import PieckNode, UnionNode
from lumos_core.experiments.poisoning.uniformity_filter import FilteringTransport
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node


@dataclass(frozen=True)
class Guard:
    """The part of a defence that is no configuration of a run; only the bench has it.

    Attributes:
        node: how honest nodes are made.
        filters: whether the server leaves replies out before it aggregates (UNION).
    """

    node: type[Node] = Node
    filters: bool = False

    def transport(self, nodes: Sequence[Node], config: RunConfig) -> InProcessTransport:
        """The connection of the server to these nodes."""
        return FilteringTransport(nodes, config) if self.filters else InProcessTransport(nodes)


NO_GUARD = Guard()
GUARDS: dict[str, Guard] = {
    "pieck": Guard(node=PieckNode),
    "union": Guard(node=UnionNode, filters=True),
}
"""By the name of the defence."""


def guard_of(name: str) -> Guard:
    """The guard of "method" or "method:defence"."""
    return GUARDS.get(name.partition(":")[2], NO_GUARD)
