"""``lumos status``: the state of a run, read from its folder alone."""

import json
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from lumos_core.cli.screens import results_table
from lumos_core.cli.status_series import show_series
from lumos_core.cli.web import PORT, Host, Port, Web, watching
from lumos_core.processes.children import ending_on_signals
from lumos_core.runs.advice import advice_for
from lumos_core.runs.certificate_dates import NAMES
from lumos_core.runs.series_file import is_series
from lumos_core.runs.status import RunStatus, status_of
from lumos_core.terminal.progress import duration

RunFolder = Annotated[
    Path, typer.Argument(help="Folder of a run, or of a series of runs.", metavar="RUN_DIR")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]


def status_command(
    run_dir: RunFolder,
    as_json: AsJson = False,
    web: Web = False,
    host: Host = "127.0.0.1",
    port: Port = PORT,
) -> None:
    """Show a run: alive or not, rounds, metrics, nodes and what failed.

    Exits 0 for a run that is alive or completed, 1 for one that failed, stopped or cannot be read.
    Of a series it shows the nights; it exits 1 if the latest has failed or no server does it.
    With --web it serves a page until Ctrl-C.
    """
    if web:
        _serve(run_dir, host, port)
    if is_series(run_dir):
        raise typer.Exit(0 if show_series(run_dir, as_json) else 1)
    status = status_of(run_dir)
    if as_json:
        typer.echo(json.dumps(status.to_dict(), indent=2))
    else:
        _print(status)
    raise typer.Exit(0 if status.state in ("running", "completed") else 1)


def _serve(run_dir: Path, host: str, port: int) -> NoReturn:
    if not is_series(run_dir):
        status_of(run_dir)  # what is not the folder of a run is refused at once
    with ending_on_signals(), watching(run_dir, host, port) as address:
        Console(soft_wrap=True).print(f"{address}  (Ctrl-C ends it)", highlight=False)
        try:
            while True:
                time.sleep(3600.0)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


def _print(status: RunStatus) -> None:
    console = Console(soft_wrap=True)
    colour = {"running": "green", "completed": "green", "failed": "red"}.get(status.state, "yellow")
    rounds = f"round {status.round} of {status.rounds or '?'}"
    console.print(f"[{colour}]{status.state}[/] {status.method}, {rounds}", highlight=False)
    if status.reason:
        console.print(status.reason, markup=False, highlight=False)
    if status.views:
        console.print(status.views, style="yellow", markup=False, highlight=False)
    _table(
        "views, before the first round",
        ("node", "written", "time left", "last heard of (UTC)"),
        [
            (p["node"], *_written(p), str(p["time"])[:19].replace("T", " "))
            for p in status.preparing
        ],
    )
    for text in status.expiring:
        console.print(text, style="yellow", markup=False, highlight=False)
    best = {e["round"]: "best" for e in status.evaluations if e["round"] == status.best_round}
    _table(
        "validation of the model after each round",
        ("round", "users", "HR@20", "NDCG@20", ""),
        [
            (e["round"], e["users"], _share(e["hr@20"]), _share(e["ndcg@20"]),
             best.get(e["round"], ""))
            for e in status.evaluations
        ],
    )  # fmt: skip
    late = any(n.late for n in status.nodes)
    _table(
        "nodes",
        ("node", "last round", "last seen (UTC)", "rounds", "failures", *["late"] * late),
        [
            (n.name, n.last_round, n.last_seen[:19].replace("T", " "), n.rounds, n.failures,
             *[n.late] * late)
            for n in status.nodes
        ],
    )  # fmt: skip
    _table(
        "other versions than the server's",
        ("node", "has", "what to do"),
        [(n.name, n.versions, n.note) for n in status.nodes if n.note],
    )
    _table(
        "refused",
        ("node", "reason", "what to do"),
        [(name, reason, advice_for(reason)) for name, reason in sorted(status.refused.items())],
    )
    _table(
        "failures",
        ("round", "node", "reason"),
        [(f["round"], f["node"], f["reason"]) for f in status.failures],
    )
    _table(
        "certificates of the server",
        ("certificate", "days left"),
        [(NAMES.get(name, name), f"{days:.0f}") for name, days in status.certificates.items()],
    )


def _table(title: str, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    if rows:
        cells = ([str(cell) for cell in row] for row in rows)
        Console().print(results_table(header, cells, title, boxed=True))


def _written(prepared: dict[str, Any]) -> tuple[str, str]:
    """The columns "written" and "time left" of a node that writes views."""
    if prepared["done"]:
        return "finished", ""
    if prepared["percent"] is None:
        return "does not answer", ""
    left = prepared["seconds_left"]
    return f"{prepared['percent']} %", duration(left) if left else ""


def _share(value: float) -> str:
    return f"{value:.4f}"
