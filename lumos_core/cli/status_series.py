"""``lumos status`` for the folder of a series: its nights and the model in use."""

import json
from pathlib import Path

import typer
from rich.console import Console

from lumos_core.cli.screens import results_table
from lumos_core.deployment.supervision import RUNNING
from lumos_core.runs.lock import is_held
from lumos_core.runs.series_file import CURRENT, RUNS, SERIES, Night, SeriesFile

_SHOWN = 14


def show_series(folder: Path, as_json: bool) -> bool:
    """Print a series.

    Returns:
        Whether nothing needs a look: a server does the series or it has ended, and its latest night
        that is over has completed.
    """
    series = SeriesFile.read(folder / SERIES)
    alive = is_held(folder, RUNNING)
    if as_json:
        found = {"series": str(folder), "alive": alive, **series.content()}
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(Console(soft_wrap=True), folder, series, alive)
    over = (night for night in reversed(series.nights) if night.outcome != "running")
    last = next(over, None)
    return (alive is not False or bool(series.ended)) and (
        last is None or last.outcome == "completed"
    )


def _print(console: Console, folder: Path, series: SeriesFile, alive: bool | None) -> None:
    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False)

    line(f"series, {series.timetable}: {series.number} nights")
    line(*_state(folder, series, alive))
    if series.model:
        line(f"model in use: that of {series.model}, {folder / CURRENT}")
    else:
        line("no model yet", "yellow")
    if series.epsilon is not None:
        line(f"ε of all nights together: {series.epsilon:.3g}")
    latest = series.nights[-_SHOWN:]
    if latest:
        header = ("night (UTC)", "outcome", "rounds", "NDCG@20 before", "after", "model")
        rows = [_row(night) for night in latest]
        console.print(results_table(header, rows, "nights", boxed=True))
    for night in latest:
        if night.outcome == "failed":
            line(f"{night.name} failed: {night.reason}", "yellow")


def _state(folder: Path, series: SeriesFile, alive: bool | None) -> tuple[str, str]:
    """What goes on at the moment, and its style."""
    if series.ended:
        return f"ended: {series.ended}", "yellow"
    if alive is False:
        return "no server does it at the moment; the same command goes on with it", "yellow"
    if series.last is not None and series.last.outcome == "running":
        place = folder / RUNS / series.last.name
        return f"running since {_short(series.last.begun)}; lumos status {place}", "green"
    return f"the next night begins at {_short(series.next)} UTC", "green"


def _row(night: Night) -> tuple[str, ...]:
    model = "in use since then" if night.promoted else ""
    return (
        _short(night.begun),
        night.outcome,
        str(night.rounds),
        _value(night.before),
        _value(night.after),
        model,
    )


def _short(time: str) -> str:
    return time[:16].replace("T", " ")


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
