"""Clients with one user each, and malicious clients among them."""

from collections.abc import Sequence

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.experiments.poisoning.malicious_node import MaliciousNode
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.population import Population
from lumos_core.views.view import ViewSource
from lumos_core.wire.messages import Instruction, Reply


class PoisonedPopulation(Population):
    """The honest clients train together, the malicious ones one after the other.

    Args:
        catalog, users, config, views: of the honest clients, as for a
            :class:`~lumos_core.federation.population.Population`.
        attackers: the malicious ones; without any it is a population like others.
    """

    def __init__(
        self,
        catalog: Catalog,
        users: Sequences,
        config: RunConfig,
        views: ViewSource,
        attackers: Sequence[MaliciousNode],
    ) -> None:
        super().__init__(catalog, users, config, views)
        self._by_rows = False  # attackers move any row, and a round's deltas are all of one form
        self._attackers = {attacker.name for attacker in attackers}
        # a MaliciousNode has the methods of a Node
        self._malicious = InProcessTransport(attackers)  # type: ignore[arg-type]

    def nodes(self) -> list[str]:
        return [*super().nodes(), *self._malicious.nodes()]

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        theirs = [i for i in instructions if i.node in self._attackers]
        honest = [i for i in instructions if i.node not in self._attackers]
        return [
            *super().exchange(honest, deadline),
            *self._malicious.exchange(theirs, deadline),
        ]
