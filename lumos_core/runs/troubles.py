"""What went wrong in a run, in sentences: the same trouble of a node in many rounds is one of
them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumos_core.pages.page import Finding
from lumos_core.runs.advice import advice_for

SHOWN = 20
"""Troubles that are told one by one."""
_LISTED = 4


@dataclass(frozen=True)
class Trouble:
    """A failure and what to do about it.

    Attributes:
        node: whose; empty if it is the round's.
        reason: as the history has it.
        rounds: of the failures, ordered.
    """

    node: str
    reason: str
    rounds: Sequence[int]

    def sentence(self) -> str:
        """Who failed, when and why."""
        who = self.node or ("a round" if len(self.rounds) == 1 else f"{len(self.rounds)} rounds")
        return f"{who} failed {_when(self.rounds)}: {ended(self.reason)}"

    def advice(self) -> str:
        """What to do about it."""
        return advice_for(self.reason)


def troubles_of(failures: Iterable[dict[str, Any]]) -> list[Trouble]:
    """Failures of :class:`~lumos_core.runs.status.RunStatus`, those alike together; first those of
    whole rounds, then those that happened most often."""
    found: dict[tuple[str, str], list[int]] = {}
    for failure in failures:
        key = str(failure["node"]), str(failure["reason"])
        found.setdefault(key, []).append(int(failure["round"]))
    rows = [Trouble(node, reason, sorted(rounds)) for (node, reason), rounds in found.items()]
    return sorted(rows, key=lambda t: (bool(t.node), -len(t.rounds), t.node))


def refusals(refused: Mapping[str, str]) -> list[Finding]:
    """Nodes that are refused, by name, each with its reason and what to do."""
    names = sorted(refused)
    found = [
        Finding(f"{name} was refused: {ended(refused[name])}", advice_for(refused[name]))
        for name in names[:SHOWN]
    ]
    more = len(names) - SHOWN
    return [*found, *([Finding(f"{more:,} more nodes were refused as well.", "")] * (more > 0))]


def ended(reason: str) -> str:
    """A reason as the end of a sentence."""
    return reason if reason.endswith((".", "…", "!", "?")) else f"{reason}."


def left_out(troubles: Sequence[Trouble]) -> str:
    """A sentence about those that are not told one by one; empty if there are none."""
    more = len(troubles) - SHOWN
    return f"And {more:,} more; history.jsonl has them all." if more > 0 else ""


def _when(rounds: Sequence[int]) -> str:
    """In which rounds: each of a few, the first and the last of many."""
    different = list(dict.fromkeys(rounds))
    times = "" if len(rounds) == 1 else f"{len(rounds)} times, "
    if len(different) == 1:
        return f"{times}in round {different[0]}"
    if len(different) <= _LISTED:
        *first, last = map(str, different)
        return f"{times}in rounds {', '.join(first)} and {last}"
    return f"{times}in rounds {different[0]} to {different[-1]}"
