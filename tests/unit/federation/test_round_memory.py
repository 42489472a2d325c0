"""What the deltas of a round take, and the refusal of what cannot fit."""

from typing import Any

import pytest

from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError
from lumos_core.federation.round_memory import RoundMemory, check_memory

SHAPES = {"items.weight": (1001, 8), "bias": (1001,), "blocks.0.w": (8, 8)}
REST = 1001 + 64


def _config(**changes: Any) -> RunConfig:
    base: dict[str, Any] = {"method": "lumos", "aggregation": "mean", "clip": "none"}
    return RunConfig(**{**base, **changes})


@pytest.mark.parametrize(
    ("changes", "of_table", "of_rest"),
    [
        ({}, 1, 1),
        ({"clip": "rows"}, 2, 2),
        ({"aggregation": "median-encoder"}, 1, 3),
        ({"aggregation": "median"}, 3, 3),
        ({"aggregation": "median", "clip": "norm"}, 4, 4),
        ({"dp": "central", "weighting": "uniform"}, 3, 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("rows", [None, 5])
def test_copies_are_counted(
    changes: dict[str, Any], of_table: int, of_rest: int, rows: int | None
) -> None:
    memory = RoundMemory.of(SHAPES, rows, clients=10, population=100)
    table = (1001 if rows is None else rows) * 8
    assert memory.bytes(_config(**changes)) == 4 * 10 * (table * of_table + REST * of_rest)


def test_error_feedback_keeps_something_of_every_client() -> None:
    memory = RoundMemory.of(SHAPES, 5, clients=10, population=100)
    plain = memory.bytes(_config(delta_codec="float16"))
    kept = memory.bytes(_config(delta_codec="float16", error_feedback=True))
    assert kept - plain == 4 * 2 * 100 * (5 * 8 + REST)
    assert memory.bytes(_config(error_feedback=True)) == plain, "nothing is left to send"


def test_what_does_not_fit_is_refused_with_the_memory_that_it_needs() -> None:
    memory = RoundMemory(clients=490, population=4905, table=64_000_064, rest=100_000)
    with pytest.raises(ConfigError) as refused:
        check_memory(memory, _config(), free=16 * 2**30)
    assert "about 117.0 GiB of memory, 16.0 GiB are free: 490 of 4,905 clients" in str(
        refused.value
    )
    assert "item-rows = met" in str(refused.value)
    check_memory(memory, _config(), free=120 * 2**30)
    few = RoundMemory(clients=490, population=4905, table=600, rest=100_000)
    check_memory(few, _config(), free=2**30)
