"""The versions of nodes, in the history, where they are not those that one would expect."""

import logging

from lumos_core.runs.history import VERSIONS, Event, History, utc_now
from lumos_core.wire import versions
from lumos_core.wire.versions import Versions

log = logging.getLogger(__name__)


class VersionNotes:
    """Writes them down, once the run has a first checkpoint: before, a history without one would
    look like a damaged run.

    Args:
        history: of the run.
        started: the event that says where the run's first model is from, if it is not in the
            history yet; it is written first.
    """

    def __init__(self, history: History, started: Event | None = None) -> None:
        known = [event["event"] for event in history.events]
        self._history = history
        self._early: list[Event] | None = (
            [started] if started and started["event"] not in known else []
        )

    def note(self, name: str, found: Versions, note: str, round_: int) -> None:
        """Record a node's versions if they are not those that one would expect of it: the last that
        are known or, without any, the server's own.

        Args:
            note: what is special about them, in words; may be empty.
            round_: the run's last finished round.
        """
        events = [*self._history.events, *(self._early or [])]
        told = [e for e in events if e["event"] == VERSIONS and e["node"] == name]
        facts = {
            "lumos": found.lumos, "protocol": found.protocol, "flower": found.flower,
            "python": found.python, "server": versions.own().lumos, "note": note,
        }  # fmt: skip
        before = {key: told[-1].get(key) for key in facts} if told else None
        if facts == before or (before is None and not note):
            return
        log.info("node %s: %s", name, note or f"it has {found}, as this server")
        event = {"event": VERSIONS, "round": round_, "time": utc_now(), "node": name, **facts}
        if self._early is None:
            self._history.add(event)
        else:
            self._early.append(event)

    def write_early(self) -> None:
        """Write down what was learned before the first checkpoint, and from now on at once."""
        early, self._early = self._early or [], None
        for event in early:
            self._history.add(event)
