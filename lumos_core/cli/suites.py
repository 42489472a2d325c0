"""The common part of `lumos compare` and `lumos attack`: a suite of runs, then its reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

    from lumos_core.cli.screens import ResultsTable
    from lumos_core.config import RunConfig
    from lumos_core.experiments.jobs import Job, OnResult
    from lumos_core.experiments.results_file import Result, ResultsFile
    from lumos_core.pages.page import Page
    from lumos_core.terminal.progress import Task

TABLE = "table.md"
Run = TypeVar("Run", bound="Job")


class Suite(Protocol[Run]):
    """What differs between the two commands; :func:`run_suite` does the rest."""

    @property
    def picture(self) -> str:
        """File name of the picture."""

    def plan(self, data: Path, out: Path, base: "RunConfig") -> "Sequence[Run]":
        """All requested runs."""

    def check(self, kept: "Mapping[str, Result]", data: Path, out: Path, base: "RunConfig") -> None:
        """Refuse, before anything runs, a folder with runs that must not be in the table, and any
        other mistake that would otherwise be found only when the table is written. ``kept`` maps
        where each result was found to the result."""

    def complete(self, file: "ResultsFile", data: Path) -> None:
        """Add what results of earlier versions lack and the data say."""

    def follow(self, results: "Sequence[Result]", data: Path, base: "RunConfig") -> "Sequence[Run]":
        """Further runs, which depend on the results of the planned ones; none for most suites."""

    def line(self, result: "Result") -> str:
        """A finished run as a line for the screen, without its duration."""

    def collect(self, jobs: "Sequence[Run]", results: "Sequence[Result]") -> "list[Result]":
        """The results to report among those of the folder, in the order of the table."""

    def table(self, results: "Sequence[Result]") -> str:
        """The table in Markdown."""

    def draw(self, results: "Sequence[Result]", path: Path, name: str) -> None:
        """Draw the picture to ``path``; ``name`` is the name of the data."""

    def page(self, results: "Sequence[Result]", name: str) -> "Page":
        """The page for browsers; ``name`` is the name of the data."""

    def screen(self, results: "Sequence[Result]") -> "ResultsTable":
        """The table for the screen: only the columns that it has room for."""


def run_suite(
    suite: "Suite[Run]",
    data: Path,
    out: Path,
    base: "RunConfig",
    processes: int,
    *,
    report_only: bool = False,
) -> "list[Result]":
    """Plan, run what has not been run, show the progress, and write table and picture.

    Args:
        suite: what runs, and how it is shown.
        data: prepared folder.
        out: folder for the results; runs whose results it holds are not repeated.
        base: the configuration that the suite changes from run to run.
        processes: runs at a time.
        report_only: run nothing.

    Returns:
        The results that were reported.

    Raises:
        ConfigError: a name is unknown, or the folder holds runs of something else.
        DataError: ``data`` is not a prepared folder, or there is nothing to report.
    """
    from rich.console import Console

    from lumos_core.cli.options import check_out
    from lumos_core.errors import DataError
    from lumos_core.experiments.jobs import data_facts, run_jobs
    from lumos_core.experiments.results_file import ResultsFile
    from lumos_core.terminal.progress import Progress

    jobs = suite.plan(data, out, base)
    data_facts(data)  # raises here, before the folder for results is made
    file = ResultsFile(out, base)
    suite.check(file.read(), data, out, base)
    check_out(out)
    console = Console()
    file.convert_old()
    suite.complete(file, data)
    if not report_only:
        with Progress(console) as progress:

            def run(runs: "Sequence[Run]") -> "list[Result]":
                task = progress.task(data.name, total=len(runs), unit="runs")
                return run_jobs(runs, file, processes, _shown(suite, task, console))

            if further := suite.follow(run(jobs), data, base):
                jobs = [*jobs, *further]
                run(further)
    results = suite.collect(jobs, list(file.read().values()))
    if not results:
        raise DataError(f"{out}: holds no finished run of this suite; run it without --report-only")
    _report(suite, results, data.name, out, console)
    return results


def _shown(suite: "Suite[Run]", task: "Task", console: "Console") -> "OnResult":
    """Returns what prints a run's result when it is there, and moves the task on."""

    def show(result: "Result", found: bool) -> None:
        how = "kept" if found else f"{result['seconds']:.0f} s"
        console.print(f"{suite.line(result)}  [dim]{how}[/]", highlight=False, soft_wrap=True)
        task.advance()

    return show


def _report(
    suite: "Suite[Run]", results: "Sequence[Result]", name: str, out: Path, console: "Console"
) -> None:
    from lumos_core.experiments.results_file import RESULTS
    from lumos_core.pages.page import render
    from lumos_core.runs.report_page import PAGE
    from lumos_core.safe_files import write_atomically

    write_atomically(out / TABLE, suite.table(results).encode())
    suite.draw(results, out / suite.picture, name)
    write_atomically(out / PAGE, render(suite.page(results, name)).encode(errors="replace"))
    console.print(suite.screen(results))
    console.print(f"written: {out / RESULTS}, {TABLE}, {suite.picture}, {PAGE}", soft_wrap=True)
