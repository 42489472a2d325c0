"""The status of a run, read from its folder: history, summary, checkpoint and the server's lock."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lumos_core.errors import DataError
from lumos_core.runs import history
from lumos_core.runs.attendance import ATTENDANCE, Attendance
from lumos_core.runs.certificate_dates import CertificateDates
from lumos_core.runs.folder_version import check_folder
from lumos_core.runs.history import HISTORY, VERSIONS, Event, read_history
from lumos_core.runs.lock import is_held
from lumos_core.runs.saved_config import CONFIG, SavedConfig
from lumos_core.runs.summary import SUMMARY, RunSummary
from lumos_core.runs.view_coverage import RunViews

RunState = Literal["running", "stopped", "completed", "failed", "unknown"]
_METRICS = ("hr@20", "ndcg@20")
_DAMAGED = "the file is damaged"
_DOUBTED = "its evaluation is out of line with the others; it counts within bounds"


@dataclass(frozen=True)
class NodeStatus:
    """What the history says about a node.

    Attributes:
        last_round: the last round it trained or evaluated in; -1 if it never did.
        last_seen: time of its last answer, UTC; empty if it never answered.
        rounds: number of rounds in which its delta was used.
        failures: number of its failures.
        versions: of its programs, if they differ from the server's.
        note: what to do about that; empty if its versions are the server's.
        late: number of rounds that closed without it, because it was still at work.
    """

    name: str
    last_round: int
    last_seen: str
    rounds: int
    failures: int
    versions: str = ""
    note: str = ""
    late: int = 0


@dataclass(frozen=True)
class RunStatus:
    """A run as its folder shows it; numbers of users are sums over nodes.

    Attributes:
        views: a sentence about missing views; empty if none were missing.
        preparing: by node, how far it is with its views; empty after that phase.
        certificates: days until each of the server's certificates expires; empty without TLS.
        expiring: a sentence for each that expires soon.
        refused: by name, why a node may not take part.
    """

    run: str
    state: RunState
    reason: str
    method: str
    round: int
    rounds: int
    last_event: str
    best_round: int
    users: int
    evaluations: list[dict[str, Any]]
    test: dict[str, float]
    views: str
    preparing: list[dict[str, Any]]
    nodes: list[NodeStatus]
    failures: list[dict[str, Any]]
    certificates: dict[str, float]
    expiring: list[str]
    refused: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def status_of(run_dir: Path) -> RunStatus:
    """Read a run's folder.

    Raises:
        DataError: it is not the folder of a run, or a file in it is damaged.
        ConfigError: its ``config.json`` is damaged.
        NewerFileError: a newer LUMOS wrote a file in it.
    """
    return status_and_events(run_dir)[0]


def status_and_events(run_dir: Path) -> tuple[RunStatus, list[Event]]:
    """What :func:`status_of` says, and the history that it has read for it; raises as it does."""
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: no such folder, expected the folder of a run (its --run-dir)")
    check_folder(run_dir, "run")
    summary = RunSummary.read_if_there(run_dir / SUMMARY, _DAMAGED)
    config = _config(run_dir)
    events = read_history(run_dir / HISTORY)
    alive = is_held(run_dir)
    if not (summary or config or events or alive):
        raise DataError(
            f"{run_dir}: no {HISTORY}, {SUMMARY} or checkpoint, expected the folder of a run"
        )
    try:
        return _status(run_dir, summary, config, events, alive), events
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{run_dir / HISTORY} or {SUMMARY}: an entry lacks a key or has another type than "
            f"LUMOS writes ({type(error).__name__}: {error}); the file is damaged"
        ) from None


def _status(
    run_dir: Path,
    summary: RunSummary | None,
    config: dict[str, Any],
    events: list[Event],
    alive: bool | None,
) -> RunStatus:
    trained = [e for e in events if e["event"] == "round"]
    validation = [e for e in events if e["event"] == "evaluation" and e["split"] == "validation"]
    best = max(validation, key=history.value_of, default=None)
    dates = CertificateDates.of_run(run_dir)
    return RunStatus(
        run=str(run_dir),
        state=_state(summary, alive),
        reason=summary.reason if summary else "",
        method=str(config.get("method") or (summary and summary.method) or "?"),
        round=int(trained[-1]["round"]) if trained else 0,
        rounds=int(config.get("rounds", 0)),
        last_event=str(events[-1].get("time", "")) if events else "",
        best_round=int(best["round"]) if best else -1,
        users=int(trained[-1].get("users", 0)) if trained else 0,
        evaluations=[{k: e[k] for k in ("round", "users", *_METRICS)} for e in validation],
        test=summary.test if summary else {},
        views=_views(config, events),
        preparing=_preparing(events),
        nodes=nodes_of(events),
        failures=failures_of(events),
        certificates={name: round(days, 1) for name, days in dates.days().items()},
        expiring=dates.warnings(),
        refused=(Attendance.read_if_sound(run_dir / ATTENDANCE) or Attendance()).refused,
    )


def _views(config: dict[str, Any], events: list[Event]) -> str:
    found = RunViews.of(config, events)
    return "" if found is None else found.sentence()


def _preparing(events: list[Event]) -> list[dict[str, Any]]:
    """How far each node reports to be with its views; empty once that phase is over."""
    last = {
        event["event"]: n for n, event in enumerate(events)
        if event["event"] in ("views", "views-ready", "round")
    }  # fmt: skip
    if last.get("views", -1) < max(last.get("views-ready", -1), last.get("round", -1)):
        return []
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "views":
            names = ("node", "percent", "seconds_left", "done", "time")
            found[event["node"]] = {name: event.get(name) for name in names}
    return [found[name] for name in sorted(found)]


def _state(summary: RunSummary | None, alive: bool | None) -> RunState:
    """The state. A held lock outweighs a summary: while a resumed run is running, the summary of
    its earlier part may still be there."""
    if alive:
        return "running"
    if summary:
        return summary.outcome
    return "unknown" if alive is None else "stopped"


def _config(run_dir: Path) -> dict[str, Any]:
    """The flat configuration, from ``config.json`` or, without that file, from the checkpoint."""
    saved = SavedConfig.read_if_there(run_dir / CONFIG, _DAMAGED)
    if saved is not None and saved.run is not None:
        return saved.run
    from lumos_core.runs.checkpoint import LATEST, load_checkpoint

    path = run_dir / LATEST
    return dict(load_checkpoint(path).progress.config) if path.exists() else {}


def nodes_of(events: Iterable[Event]) -> list[NodeStatus]:
    """What the history says about each node, by name."""
    found: dict[str, _Seen] = {}
    for event in events:
        time, number = str(event.get("time", "")), int(event["round"])
        trained = set(event.get("ok", []) if event["event"] == "round" else [])
        for name in {*event.get("ok", []), *event.get("nodes", [])}:
            seen = found.setdefault(name, _Seen())
            seen.last_round, seen.last_seen = max(seen.last_round, number), time
            seen.rounds += name in trained
        for name in (*event.get("late", []), *event.get("busy", [])):
            found.setdefault(name, _Seen()).late += 1
        for failure in event.get("failed", []):
            found.setdefault(str(failure["node"]), _Seen()).failures += 1
        if event["event"] == VERSIONS:
            seen = found.setdefault(str(event["node"]), _Seen())
            seen.note = str(event["note"])
            seen.versions = _versions(event) if seen.note else ""
    return [NodeStatus(name, **vars(found[name])) for name in sorted(found)]


@dataclass
class _Seen:
    """What is known of a node so far; the attributes of :class:`NodeStatus`."""

    last_round: int = -1
    last_seen: str = ""
    rounds: int = 0
    failures: int = 0
    versions: str = ""
    note: str = ""
    late: int = 0


def _versions(event: Event) -> str:
    names = {"LUMOS": "lumos", "protocol": "protocol", "Flower": "flower", "Python": "python"}
    return ", ".join(f"{name} {event[key]}" for name, key in names.items())


def failures_of(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Failures of nodes and of whole rounds, in order; ``node`` is empty for a round's."""
    rows: list[dict[str, Any]] = []
    for event in events:
        rows += [{"round": event["round"], **failure} for failure in event.get("failed", [])]
        rows += [
            {"round": event["round"], "node": name, "reason": _DOUBTED}
            for name in event.get("doubted", [])
        ]
        if event["event"] == "failed-round":
            rows.append({"round": event["round"], "node": "", "reason": event["reason"]})
    return rows
