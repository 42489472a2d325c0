"""The page of ``lumos status --web`` for a series: its nights, and the night that runs."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from lumos_core.pages.charts import Line, line_chart
from lumos_core.pages.page import (
    Cell,
    Charts,
    Figure,
    Finding,
    Findings,
    Page,
    Section,
    Snapshot,
    Table,
    Tone,
)
from lumos_core.runs.advice import advice_for
from lumos_core.runs.live_page import live_snapshot
from lumos_core.runs.report_page import NO_VALUE, made
from lumos_core.runs.series_file import RUNS, SERIES, Night, SeriesFile
from lumos_core.runs.troubles import ended

SHOWN = 14
"""Nights whose rows are open from the start."""
FAILED = 5
"""Nights that failed, of the latest, that are told one by one."""


def series_snapshot(folder: Path, alive: bool | None, now: datetime | None = None) -> Snapshot:
    """The page of the series in a folder; while a night runs, with that night's own page.

    Args:
        folder: the series' folder.
        alive: whether a server does the series; None if that cannot be seen.
        now: the time, with a zone; the default is that of this machine.

    Raises:
        DataError: a file of the series or of the night that runs is damaged.
    """
    series = SeriesFile.read(folder / SERIES)
    own = _series_page(folder, series, alive)
    last = series.last
    if alive is False or last is None or last.outcome != "running":
        return Snapshot(own, own.lead)
    place = folder / RUNS / last.name
    if not (place / "history.jsonl").exists():
        return Snapshot(own, own.lead)
    night = live_snapshot(place, now)
    tonight = night.page.sections[0]
    sections = (*own.sections, *night.page.sections[1:])
    page = replace(
        own, lead=f"{own.lead} {night.page.lead}",
        sections=(replace(tonight, title="Tonight"), *sections),
    )  # fmt: skip
    return Snapshot(page, night.announcement)


def _series_page(folder: Path, series: SeriesFile, alive: bool | None) -> Page:
    lead, tone = _lead(series, alive)
    nights = series.nights
    figures = [
        Figure("Nights", f"{series.number}", series.timetable),
        Figure("Model in use", series.model or NO_VALUE),
    ]
    if nights and series.model:
        used = next((n for n in reversed(nights) if n.name == series.model), None)
        if used is not None and used.after is not None:
            figures.append(Figure("NDCG@20", f"{used.after:.4f}", "validation of its night"))
    if series.epsilon is not None:
        figures.append(Figure("ε of all nights", f"{series.epsilon:.3g}"))
    return Page(
        title=f"{folder.name}: {series.timetable}",
        kicker="LUMOS · a series of runs",
        lead=lead,
        tone=tone,
        figures=figures,
        sections=(
            Section("nights", "Nights", _nights(nights)),
            Section("failed-nights", "Nights that failed", _failed(nights)),
        ),
        made=made({}).replace("This page fetches nothing.", "Only this server is asked."),
    )


def _lead(series: SeriesFile, alive: bool | None) -> tuple[str, Tone]:
    if series.ended:
        return f"The series is over: {ended(series.ended)}", "attention"
    if alive is False:
        text = "No server does this series at the moment; the same command goes on with it."
        return text, "bad"
    if series.last is not None and series.last.outcome == "running":
        return f"A night is running since {_short(series.last.begun)} UTC.", "good"
    return f"The next night begins at {_short(series.next)} UTC.", "good"


def _nights(nights: Sequence[Night]) -> list[Charts | Table]:
    if not nights:
        return []
    first = [(float(n), night) for n, night in enumerate(nights, start=1)]
    chart = line_chart(
        "NDCG@20 on each night's validation targets",
        [
            Line("before", [(x, n.before) for x, n in first if n.before is not None]),
            Line("after", [(x, n.after) for x, n in first if n.after is not None]),
        ],
        "{:.3f}",
        "night",
    )
    rows: list[list[Cell]] = [_row(night) for night in reversed(nights)]
    header = ["night (UTC)", "outcome", "rounds", "NDCG@20 before", "after", "ε", "model"]
    blocks: list[Charts | Table] = [Charts([chart])] if chart else []
    blocks.append(Table("The latest first", header, rows[:SHOWN], align="llrrrrl"))
    if more := rows[SHOWN:]:
        title = f"{len(more)} earlier nights"
        blocks.append(Table(title, header, more, folded=True, align="llrrrrl"))
    return blocks


def _row(night: Night) -> list[Cell]:
    return [
        _short(night.begun),
        night.outcome,
        f"{night.rounds}",
        _value(night.before),
        _value(night.after),
        NO_VALUE if night.epsilon is None else f"{night.epsilon:.3g}",
        "in use since then" if night.promoted else "",
    ]


def _failed(nights: Sequence[Night]) -> list[Findings]:
    found = [night for night in reversed(nights) if night.outcome == "failed"]
    items = [
        Finding(f"{night.name} failed: {ended(night.reason)}", advice_for(night.reason))
        for night in found[:FAILED]
    ]
    if more := len(found) - FAILED:
        items += [Finding(f"And {more} more.", "", "plain")] if more > 0 else []
    return [Findings(items)] if items else []


def _short(time: str) -> str:
    return time[:16].replace("T", " ")


def _value(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.4f}"
