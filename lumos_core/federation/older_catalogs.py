"""Nodes whose catalog is an earlier version of the run's: they take part until they catch up.

The items of an earlier version are the first ones of the run's catalog. So such a node gets the
model without the rows of items that it does not know, under the fingerprint of its own catalog: for
it, everything is as in a run of that version, and it needs to know nothing of the chain. Its delta
is checked as one of that size, and is zero for the other items. It evaluates on its own catalog,
among the items that it has.

A run refuses these nodes if replies only count as sums that all have the same length, or if all
must have added noise to every row: with ``secure-aggregation`` and with ``dp = distributed``.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import NamedTuple

from lumos_core.config import RunConfig
from lumos_core.data.catalog_versions import Earlier, Lineage
from lumos_core.data.layout import CATALOG_VERSIONS
from lumos_core.learning.parameters import ModelShape, Params, of_first_items
from lumos_core.wire.messages import Instruction, Reply, Talk, Transport


class OlderCatalog(NamedTuple):
    """What is expected of a node whose catalog is an earlier version.

    Attributes:
        version: which one.
        shape: the fingerprint of its model's shape.
        refusal: why the run cannot use it; empty if it can.
    """

    version: Earlier
    shape: str
    refusal: str

    @property
    def note(self) -> str:
        """What to say of the node to whoever runs the server."""
        number, of, _, items = self.version
        return (
            f"uses catalog version {number} of {of}: it trains and ranks the first {items} items; "
            f"give it catalog.tsv and {CATALOG_VERSIONS}"
        )


class OlderCatalogs:
    """A :class:`~lumos_core.wire.messages.Transport` that gives each node the part of the model
    that its catalog has.

    Args:
        transport: the way to the nodes.
        config: of the run.
        lineage: the run's catalog and the versions before it; None if they are not known.
    """

    def __init__(self, transport: Transport, config: RunConfig, lineage: Lineage | None) -> None:
        self._transport, self._config, self._lineage = transport, config, lineage
        self._versions: dict[str, Earlier] = {}

    @property
    def items(self) -> dict[str, int]:
        """By node with an earlier version, how many items it knows."""
        return {name: version.items for name, version in self._versions.items()}

    def find(self, fingerprint: str) -> OlderCatalog | None:
        """The earlier version with a fingerprint that a node has told.

        Raises:
            DataError: the chain beside the catalog is wrong.
        """
        version = self._lineage.earlier(fingerprint) if self._lineage else None
        if version is None:
            return None
        shape = ModelShape.of(self._config, version.items).fingerprint
        return OlderCatalog(version, shape, self._refusal(version))

    def note(self, name: str, older: OlderCatalog | None) -> None:
        """A node takes part, with an earlier version or with the run's catalog."""
        if older is None:
            self._versions.pop(name, None)
        else:
            self._versions[name] = older.version

    def nodes(self) -> list[str]:
        return self._transport.nodes()

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        return self._transport.exchange(self.fitting(instructions), deadline)

    @contextmanager
    def _talk(self) -> Iterator[Talk]:
        with self._transport.talk() as talk:
            yield _FittingTalk(self, talk)

    def talk(self) -> AbstractContextManager[Talk]:
        return self._talk()

    def fitting(self, instructions: Sequence[Instruction]) -> list[Instruction]:
        """The instructions, those for nodes with an earlier version with their part of the model;
        nodes with the same version share it."""
        parts: dict[tuple[int, int], Params] = {}
        found = []
        for instruction in instructions:
            version = self._versions.get(instruction.node)
            if version is None or instruction.kind == "describe":
                found.append(instruction)
                continue
            params = instruction.params
            if params is not None:
                key = id(params), version.items
                params = parts.setdefault(key, of_first_items(params, version.items))
            found.append(replace(instruction, params=params, catalog=version.fingerprint))
        return found

    def _refusal(self, version: Earlier) -> str:
        """Why the run cannot use a node with this version, or nothing."""
        reason = ""
        if self._config.secure_aggregation:
            reason = "secure-aggregation = true: masked sums have the same length for all"
        elif self._config.dp == "distributed":
            reason = "dp = distributed: items that it lacks would get less noise"
        if not reason:
            return ""
        return (
            f"its catalog is version {version.number} of {version.of}, and {reason}; give it "
            f"the run's catalog.tsv and {CATALOG_VERSIONS}"
        )


class _FittingTalk:
    def __init__(self, catalogs: OlderCatalogs, talk: Talk) -> None:
        self._catalogs, self._inner = catalogs, talk

    def send(self, instructions: Sequence[Instruction], seconds: float) -> None:
        self._inner.send(self._catalogs.fitting(instructions), seconds)

    def receive(self, seconds: float) -> Reply | None:
        return self._inner.receive(seconds)
