"""The memory that the deltas of a round take where all clients are in one process.

A node holds one delta, and so does a client here, but the process holds those of all clients that
train in a round. Before any work starts, :func:`check_memory` refuses a run whose deltas cannot
fit, instead of letting the machine run out of memory in its first round.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError
from lumos_core.federation import aggregation, error_feedback
from lumos_core.learning.parameters import ITEM_TABLE

FLOAT = 4  # bytes of a value of a delta
GIB = 2**30


@dataclass(frozen=True)
class RoundMemory:
    """What the deltas of a round are made of.

    Attributes:
        clients: how many train in a round.
        population: how many there are.
        table: values of a delta's item table.
        rest: values of its other arrays.
    """

    clients: int
    population: int
    table: int
    rest: int

    @classmethod
    def of(
        cls,
        shapes: Mapping[str, tuple[int, ...]],
        rows: int | None,
        clients: int,
        population: int,
    ) -> "RoundMemory":
        """The memory of clients whose model has these shapes.

        Args:
            shapes: by name.
            rows: how many rows of the item table a delta has; None: all.
            clients: as in the class.
            population: likewise.
        """
        all_rows, dim = shapes[ITEM_TABLE]
        rest = sum(math.prod(shape) for name, shape in shapes.items() if name != ITEM_TABLE)
        return cls(clients, population, (all_rows if rows is None else rows) * dim, rest)

    def bytes(self, config: RunConfig) -> int:
        """About how many bytes they take at a time: the deltas, clipped copies of them, the stacks
        of rules that compare values, and what error feedback keeps of every client."""
        rule = aggregation.rule(config.rule)
        copies = 1 + (config.clipping != "none") + 2 * (config.dp == "central")
        stacked = 2 if rule.needs_single_deltas else 0  # a stack, and a sorted copy of it
        of_table = copies + (0 if rule.averages_table else stacked)
        values = self.clients * (self.table * of_table + self.rest * (copies + stacked))
        if error_feedback.leaves_residuals(config):
            values += error_feedback.KEPT * self.population * (self.table + self.rest)
        return FLOAT * values


def check_memory(memory: RoundMemory, config: RunConfig, free: int | None = None) -> None:
    """Check that the deltas of a round can fit into memory.

    Args:
        memory: of the round.
        config: of the run.
        free: bytes that there are; by default, what the machine has free now.

    Raises:
        ConfigError: names the memory that is needed, and what needs less.
    """
    free = psutil.virtual_memory().available if free is None else free
    needed = memory.bytes(config)
    if needed <= free:
        return
    each = FLOAT * (memory.table + memory.rest) / 2**20
    raise ConfigError(
        f"the deltas of a round need about {needed / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB "
        f"are free: {memory.clients:,} of {memory.population:,} clients train, each delta has "
        f"{each:,.1f} MiB. Lower fraction or dim, set error-feedback = false, or keep deltas to "
        "the rows that a client met: item-rows = met, aggregation = mean or median-encoder, "
        "delta-codec = float32 or float16, dp = none"
    )
