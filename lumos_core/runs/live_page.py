"""The page of ``lumos status --web``: a run while it runs, from its folder alone."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.filesize import decimal

from lumos_core.pages.page import (
    Bar,
    Cell,
    Charts,
    Figure,
    Findings,
    Page,
    Section,
    Snapshot,
    Table,
    Tone,
)
from lumos_core.runs.attendance import ATTENDANCE, Attendance
from lumos_core.runs.history import Event
from lumos_core.runs.live_sentences import findings_now, late, utc
from lumos_core.runs.report_page import (
    NO_VALUE,
    configuration,
    failures,
    made,
    node_tables,
    rounds_table,
    single_users,
)
from lumos_core.runs.run_charts import run_charts
from lumos_core.runs.saved_config import CONFIG, SavedConfig
from lumos_core.runs.status import RunStatus, status_and_events
from lumos_core.terminal.progress import duration


def live_snapshot(run_dir: Path, now: datetime | None = None) -> Snapshot:
    """The page of the run in a folder, and what a screen reader is told when it changes: the state,
    and who is late, without seconds.

    Args:
        run_dir: the run's folder.
        now: the time, with a zone; the default is that of this machine.

    Raises:
        DataError: it is not the folder of a run, or a file in it is damaged.
    """
    now = now or utc()
    status, events = status_and_events(run_dir)
    attendance = Attendance.read_if_sound(run_dir / ATTENDANCE) or Attendance()
    if status.state != "running":  # the server that wrote it is gone
        attendance = attendance.model_copy(update={"waiting": [], "asked": "", "closes": ""})
    if single_users(events):
        attendance = Attendance()
        status = replace(status, nodes=[], preparing=[], views="")
    names = late(attendance, now)
    told = f" Late: {', '.join(names[:5])}." if names else ""
    page = _page(run_dir, status, events, attendance, now)
    return Snapshot(page, f"The run is {status.state}.{told}")


def _page(
    run_dir: Path,
    status: RunStatus,
    events: Sequence[Event],
    attendance: Attendance,
    now: datetime,
) -> Page:
    saved = SavedConfig.read_if_there(run_dir / CONFIG)
    config = saved.run if saved is not None and saved.run is not None else {}
    return Page(
        title=f"{status.method}, {_rounds(status)}",
        kicker=f"LUMOS · {run_dir.name}",
        lead=_lead(status, events),
        tone=_tone(status),
        figures=_figures(status, events),
        sections=(
            Section("now", "Now", [Findings(findings_now(status, attendance, now))]),
            Section("preparing", "Views before the first round", _preparing(status)),
            Section("curves", "Round by round", _curves(events)),
            Section("nodes", "Nodes", node_tables(status.nodes, events)),
            Section("failures", "What failed so far", _failures(status, events)),
            Section("configuration", "Configuration", configuration(config)),
        ),
        made=made({}).replace("This page fetches nothing.", "Only this server is asked."),
    )


def _rounds(status: RunStatus) -> str:
    return f"round {status.round} of {status.rounds or '?'}"


def _lead(status: RunStatus, events: Sequence[Event]) -> str:
    words = {
        "running": "The run is going on", "completed": "The run has completed",
        "failed": "The run has failed", "stopped": "The server has stopped",
        "unknown": "Whether the run goes on is not known",
    }  # fmt: skip
    text = f"{words[status.state]}: {status.round} of {status.rounds or '?'} rounds are done."
    seconds = [e["seconds"] for e in events if e["event"] == "round"][-5:]
    if status.state == "running" and seconds and status.rounds > status.round:
        left = (status.rounds - status.round) * sum(seconds) / len(seconds)
        text += f" About {duration(left)} are left."
    if status.evaluations:
        best = next(e for e in status.evaluations if e["round"] == status.best_round)
        text += (
            f" The best model so far, of round {status.best_round}, has a user's next item among "
            f"its first 20 suggestions for {best['hr@20']:.1%} of users (validation)."
        )
    return text


def _tone(status: RunStatus) -> Tone:
    tones: dict[str, Tone] = {"running": "good", "completed": "good", "failed": "bad"}
    return tones.get(status.state, "attention")


def _figures(status: RunStatus, events: Sequence[Event]) -> list[Figure]:
    rounds = [e for e in events if e["event"] == "round"]
    up = sum(e.get("bytes_up", 0) for e in events)
    down = sum(e.get("bytes_down", 0) for e in events)
    figures = [
        Figure("State", status.state, status.last_event[:19].replace("T", " ")),
        Figure("Round", f"{status.round}", f"of {status.rounds or '?'}"),
        Figure("Last round", duration(rounds[-1]["seconds"]) if rounds else NO_VALUE),
        Figure("Nodes used", f"{rounds[-1]['nodes_ok']}" if rounds else NO_VALUE,
               f"{len(rounds[-1]['failed'])} failed" if rounds else ""),
        Figure("From nodes", decimal(up)),
        Figure("To nodes", decimal(down)),
    ]  # fmt: skip
    spent = next((e["epsilon"] for e in reversed(events) if e.get("epsilon") is not None), None)
    if spent is not None:
        figures.append(Figure("ε so far", f"{spent:.3g}"))
    return figures


def _preparing(status: RunStatus) -> list[Table]:
    rows: list[list[Cell]] = []
    for told in status.preparing:
        percent = 100 if told["done"] else told["percent"]
        if percent is None:
            written: Cell = "does not answer"
        else:
            written = Bar(f"{percent} %", percent / 100)
        left = told["seconds_left"]
        rows.append([told["node"], written, duration(left) if left else NO_VALUE])
    header = ["node", "written", "time left"]
    return [Table("How far each node is", header, rows, align="llr")] if rows else []


def _curves(events: Sequence[Event]) -> list[Charts | Table]:
    charts, table = run_charts(events), rounds_table(events)
    return [*([Charts(charts)] if charts else []), *([table] if table else [])]


def _failures(status: RunStatus, events: Sequence[Event]) -> list[Findings]:
    return failures(events) if status.failures else []
