"""The options of ``lumos deploy server`` that make a series of runs of it, and how it is done."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lumos_core.errors import ConfigError, FederationError
from lumos_core.runs.report_page import write_failed_page
from lumos_core.runs.series_file import CURRENT

if TYPE_CHECKING:
    from lumos_core.deployment.series import SeriesOptions
    from lumos_core.deployment.server_supervisor import ServerOptions
    from lumos_core.runs.summary import RunSummary

OptionsOf = Callable[[Path, Path | None, Mapping[str, Any]], "ServerOptions"]
"""The options of the server for a run's folder, the model that it starts from (None: a new one),
and changes of its configuration."""
_PANEL = "A run after another"
KEEP = 7

EveryOption = Annotated[
    str,
    typer.Option(
        help="Begin a run so long after the last one began, such as 12h or 1d; the first at once.",
        metavar="INTERVAL",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
AtOption = Annotated[
    str,
    typer.Option(
        help="Begin a run every day at this time of the server's clock, such as 02:00.",
        metavar="TIME",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
NightsOption = Annotated[
    int,
    typer.Option(min=0, help="End after so many runs; 0: never.", rich_help_panel=_PANEL),
]
KeepOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="Run folders that are kept, beside that of the model in use.",
        rich_help_panel=_PANEL,
    ),
]
SeriesOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the series (default: series in the server's folder).",
        rich_help_panel=_PANEL,
    ),
]
SeriesEpsilonOption = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="End the series before ε of all runs together exceeds this; 0: no limit.",
        rich_help_panel=_PANEL,
    ),
]


def series_options(
    folder: Path, every: str, at: str, nights: int, keep: int, max_epsilon: float
) -> "SeriesOptions":
    """The series that the options describe.

    Raises:
        ConfigError: the timetable cannot be read.
    """
    from lumos_core.deployment.series import SeriesOptions
    from lumos_core.deployment.timetable import Timetable

    return SeriesOptions(folder, Timetable.parse(every, at), nights, keep, max_epsilon)


def refuse_without_timetable(
    nights: int, keep: int, series: Path | None, max_epsilon: float
) -> None:
    """Refuse options of a series where there is none.

    Raises:
        ConfigError: one is given.
    """
    given = {
        "--nights": nights, "--keep": keep != KEEP, "--series": series,
        "--series-epsilon": max_epsilon,
    }  # fmt: skip
    for option in (name for name, value in given.items() if value):
        raise ConfigError(
            f"{option}: is of a series of runs; add --every or --at, such as --every 1d, or leave "
            f"{option} out"
        )


def serve_series(
    series: "SeriesOptions",
    options_of: OptionsOf,
    flat: Mapping[str, Any],
    first: Path | None,
    show: Callable[[Path, "RunSummary"], None],
    console: Console,
) -> None:
    """Do the runs of a series.

    Args:
        series: what it is.
        options_of: the options of the server for a night.
        flat: the keys of all runs.
        first: the model that the first night starts from, if the operator named one.
        show: shows a run that has completed, and writes its report.
        console: where it is said what happens.

    Raises:
        LumosError: see :meth:`lumos_core.deployment.series.Series.serve`; or no run of the series
            has completed.
    """
    from lumos_core.config import RunConfig
    from lumos_core.deployment.plan import dated
    from lumos_core.deployment.series import Series
    from lumos_core.deployment.server_supervisor import serve

    if series.max_epsilon and RunConfig.from_flat(dated({**flat, "catalog": ""})).dp == "none":
        raise ConfigError("--series-epsilon: the runs have no differential privacy; choose -c dp=…")
    seconds = series.timetable.every.total_seconds() / 3
    patient = {} if "start-timeout" in flat else {"start-timeout": max(seconds, 1.0)}

    def config_of(run_dir: Path) -> RunConfig:
        return options_of(run_dir, None, {}).config

    def night(number: int, run_dir: Path, start: Path | None) -> "RunSummary":
        # Another seed, so that nodes count each night as a run of its own.
        seed = {"seed": int(flat.get("seed", 0)) + number - 1}
        summary = serve(options_of(run_dir, start or first, {**patient, **seed}), console)
        if summary.outcome == "completed":
            show(run_dir, summary)
        else:
            write_failed_page(run_dir, summary)
        return summary

    done = Series(series, config_of, night, console).serve()
    if not done.completed:
        raise FederationError(f"no run of the series has completed; see {series.folder}")
    console.print(f"model in use: {series.folder / CURRENT}", highlight=False)
