"""Histories of runs that never ran, for tests of pages: any number of rounds and nodes."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lumos_core.runs.summary import RunSummary

Event = dict[str, Any]
METRICS = {"hr@10": 0.2, "hr@20": 0.3, "ndcg@20": 0.16, "mrr": 0.13}


def history(
    rounds: int,
    nodes: Iterable[str] = ("node-0", "node-1", "node-2"),
    failing: Mapping[str, str] | None = None,
    every: int = 5,
) -> list[Event]:
    """Rounds in which all nodes take part, except that some fail in every few rounds.

    Args:
        rounds: how many.
        nodes: names of the nodes.
        failing: by name, why a node fails.
        every: how often: in rounds that this divides.
    """
    names, reasons = sorted(nodes), dict(failing or {})
    events = [evaluation(0, names)]
    for number in range(1, rounds + 1):
        failed = reasons if number % every == 0 else {}
        ok = [name for name in names if name not in failed]
        events.append(
            {
                "event": "round", "round": number, "time": stamp(number), "seconds": 2.5,
                "bytes_up": 1000 * len(ok), "bytes_down": 1000 * len(names),
                "nodes_ok": len(ok), "ok": ok, "users": 10 * len(ok), "loss": 6 / number + 1,
                "failed": [{"node": n, "reason": r} for n, r in sorted(failed.items())],
            }
        )  # fmt: skip
        events.append(evaluation(number, ok))
    return events


def evaluation(number: int, nodes: list[str]) -> Event:
    """An evaluation on validation; it is best in round 7, and in no round before it."""
    value = 0.2 - 0.01 * abs(number - 7) / (1 + abs(number - 7))
    return {
        "event": "evaluation", "round": number, "split": "validation", "time": stamp(number),
        "nodes": nodes, "users": 10 * len(nodes), "hr@20": value + 0.1, "ndcg@20": value,
        "selection": value,
    }  # fmt: skip


def stamp(number: int) -> str:
    """The time of a round: three seconds each."""
    minutes, seconds = divmod(3 * number, 60)
    return f"2026-01-01T{minutes // 60:02}:{minutes % 60:02}:{seconds:02}.000+00:00"


def summary(**changes: Any) -> RunSummary:
    """A run that completed."""
    facts: dict[str, Any] = {
        "outcome": "completed", "rounds": 10, "best_round": 7, "method": "lumos", "seed": 3,
        "seconds": 91.0, "bytes_up": 12_000_000, "bytes_down": 16_000_000, "test": METRICS,
        "versions": {"python": "3.11"},
    }  # fmt: skip
    return RunSummary(**{**facts, **changes})


def is_finite(text: str) -> bool:
    """Whether a number of a drawing can be drawn."""
    return math.isfinite(float(text))
