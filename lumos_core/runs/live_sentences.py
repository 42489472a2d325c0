"""What goes on in a run at this moment, in sentences: who is late, who is refused and why, and what
to do about it. One sentence each, for people who look at 3 a.m."""

from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median

from lumos_core.pages.page import Finding
from lumos_core.runs.advice import advice_for
from lumos_core.runs.attendance import Attendance
from lumos_core.runs.status import NodeStatus, RunStatus
from lumos_core.runs.troubles import ended, refusals
from lumos_core.terminal.progress import duration

LATE_SECONDS = 10.0
"""A node that was asked less long ago is not late."""
LATE_TIMES = 2.0
"""A node is late if it takes so many times as long as half of the others took."""
LATE_PART = 0.75
"""A node is late, whatever the others do, after this part of the time that it has."""
MISSED_ROUNDS = 2
"""A node that took no part in so many rounds is named."""
SHOWN = 20
"""Nodes that are named; of more, the number is told."""


def late(attendance: Attendance, now: datetime) -> list[str]:
    """Names of the nodes that the round waits for longer than one would expect, sorted."""
    if not attendance.waiting:
        return []
    silent, left = silence(attendance, now), time_left(attendance, now)
    usual = median(attendance.answered.values()) if attendance.answered else None
    slow = usual is not None and silent >= max(LATE_SECONDS, LATE_TIMES * usual)
    nearly_over = silent >= LATE_PART * (silent + max(left, 0.0))
    return list(attendance.waiting) if slow or nearly_over else []


def silence(attendance: Attendance, now: datetime) -> float:
    """Seconds since the nodes of this round were asked."""
    return max((now - datetime.fromisoformat(attendance.asked)).total_seconds(), 0.0)


def time_left(attendance: Attendance, now: datetime) -> float:
    """Seconds until the round closes; negative once it should have."""
    return (datetime.fromisoformat(attendance.closes) - now).total_seconds()


def findings_now(status: RunStatus, attendance: Attendance, now: datetime) -> list[Finding]:
    """What needs attention, the most urgent first; one sentence that all is well if nothing does.

    Args:
        status: the run as its folder shows it.
        attendance: whom the server waits for; empty if that is not known.
        now: the time, with a zone.
    """
    found = _of_state(status)
    if status.state == "running":
        found += _late(attendance, now)
        found += refusals(attendance.refused)
        found += _missed(status, attendance)
        found += _waited_for(status, attendance)
    found += [Finding(note, "lumos deploy renew makes a new one.") for note in status.expiring]
    if status.views:
        found.append(Finding(status.views, ""))
    if not any(item.tone in ("attention", "bad") for item in found):
        found.append(Finding(_all_is_well(status, attendance, now), "", "good"))
    return found


# ---------------------------------------------------------------- single findings
def _of_state(status: RunStatus) -> list[Finding]:
    if status.state == "failed":
        advice = advice_for(status.reason)
        return [
            Finding(
                f"The run failed: {ended(status.reason or 'no reason is known')}", advice, "bad"
            )
        ]
    if status.state == "stopped":
        what = "The server has stopped, and the run is not complete."
        return [Finding(what, "The same command as before resumes it (lumos run: with "
                        "--resume --run-dir).", "bad")]  # fmt: skip
    if status.state == "unknown":
        what = "Whether the server runs cannot be seen from here."
        return [Finding(what, "Look as the user that runs the server: its lock file is private.")]
    return []


def _late(attendance: Attendance, now: datetime) -> list[Finding]:
    names = late(attendance, now)
    if not names:
        return []
    silent, left = silence(attendance, now), time_left(attendance, now)
    closes = (
        f"the round closes in {duration(left)}"
        if left >= 1
        else "the round is closing now"
    )  # fmt: skip
    advice = (
        "The round then ends without it. Look at its terminal; if it is slow, raise round-timeout."
    )
    found = [
        Finding(f"{name} has been silent for {duration(silent)}; {closes}.", advice)
        for name in names[:SHOWN]
    ]
    return [*found, *_and_more(names, "are silent as well")]


def _missed(status: RunStatus, attendance: Attendance) -> list[Finding]:
    """Nodes that were there and are not any more."""
    asked = {*attendance.waiting, *attendance.answered}
    gone = [
        node for node in status.nodes
        if status.round - node.last_round >= MISSED_ROUNDS
        and node.name not in asked and node.name not in attendance.refused
    ]  # fmt: skip
    names = [node.name for node in gone]
    return [*map(_gone, gone[:SHOWN]), *_and_more(names, "have not answered either")]


def _gone(node: NodeStatus) -> Finding:
    since = f"since round {node.last_round}" if node.last_round > 0 else "in any round"
    advice = "Look at its terminal and its network; it comes back by itself."
    return Finding(f"{node.name} has taken no part {since}.", advice)


def _waited_for(status: RunStatus, attendance: Attendance) -> list[Finding]:
    if attendance.asked or status.round or status.preparing or status.nodes:
        return []
    what = "The run waits for nodes: too few are connected and accepted yet."
    return [Finding(what, "Start nodes (lumos node start), or lower min-nodes.")]


def _and_more(names: Sequence[str], do: str) -> list[Finding]:
    more = len(names) - SHOWN
    return [Finding(f"{more:,} more nodes {do}.", "")] if more > 0 else []


def _all_is_well(status: RunStatus, attendance: Attendance, now: datetime) -> str:
    if status.state == "completed":
        return "The run has completed."
    if status.preparing:
        return "Nodes write views; round 1 begins when all have said that none is missing."
    if not attendance.waiting:
        return "All is well: nobody is late, and nobody is refused."
    count = len(attendance.waiting)
    nodes = "1 node works" if count == 1 else f"{count} nodes work"
    left = duration(max(time_left(attendance, now), 0.0))
    return (
        f"All is well: {nodes} on round {attendance.round}, which closes in {left} at the latest."
    )


def utc() -> datetime:
    """The time now."""
    return datetime.now(UTC)
