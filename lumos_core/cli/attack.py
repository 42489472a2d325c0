"""`lumos attack`: malicious nodes in otherwise real federations, and what they achieve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lumos_core.cli.options import ConfigOption
from lumos_core.experiments.poisoning.defences import DEFENCES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

DEFAULT_METHODS = "lumos:default,lumos,fedavg,confedsrs"


def attack_command(
    data: Annotated[Path, typer.Argument(help="Folder made by `lumos prepare`.")],
    out: Annotated[Path, typer.Option(help="Folder for results, table and heat map.")],
    suite: Annotated[
        str,
        typer.Option(help="smoke, paper, defences, uneven or grid; or several, comma-separated."),
    ] = "paper",
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated METHOD (undefended) or METHOD:DEFENCE, where a defence is one "
            f"of {', '.join(DEFENCES)}."
        ),
    ] = DEFAULT_METHODS,
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0,1,2",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    clean_rounds: Annotated[
        int, typer.Option(min=1, help="Rounds before the malicious nodes join.")
    ] = 6,
    attack_rounds: Annotated[int, typer.Option(min=1, help="Rounds with them.")] = 4,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Table and heat map of the runs that are there.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Attack federations as a suite says; write JSON, a table and a heat map.

    Interrupted, it goes on where it was when started again.
    """
    from rich.console import Console

    from lumos_core.cli.options import check_out, defaults_for, integers, names, with_overrides
    from lumos_core.experiments.jobs import Result
    from lumos_core.experiments.poisoning.attack_table import scenario_label
    from lumos_core.experiments.poisoning.suite import finished, plan, run_jobs
    from lumos_core.terminal.progress import Progress

    own = {"seed": "--seeds", "method": "--methods", "rounds": "--clean-rounds, --attack-rounds"}
    base = with_overrides(defaults_for(data), config, own)
    planned = plan(
        data, out, names(methods, "--methods"), _scenarios(suite), integers(seeds, "--seeds"),
        base, (clean_rounds, attack_rounds),
    )  # fmt: skip
    check_out(out)
    console = Console()
    if report_only:
        _write_reports(finished(planned), data.name, out, console)
        return
    with Progress(console) as progress:
        task = progress.task(data.name, total=len(planned), unit="runs")

        def on_result(result: Result, found: bool) -> None:
            task.advance()
            how = "kept" if found else f"{result['seconds']:.0f} s"
            console.print(
                f"{result['method']:>20}  {scenario_label(result['scenario']):<40} "
                f"seed {result['seed']}  HR@20 {result['hr@20']:.4f}  "
                f"ER@10 {result['er@10']:.4f}  [dim]{how}[/]",
                highlight=False,
                soft_wrap=True,
            )

        run_jobs(planned, jobs, on_result)
    _write_reports(finished(planned), data.name, out, console)


def _scenarios(suites: str) -> list[Any]:
    """The scenarios of one or more suites, each once."""
    from lumos_core.cli.options import names
    from lumos_core.errors import ConfigError
    from lumos_core.experiments.poisoning.scenarios import SUITES

    chosen: list[Any] = []
    for name in names(suites, "--suite"):
        if name not in SUITES:
            raise ConfigError(f"--suite {name!r}: unknown; known are: {', '.join(SUITES)}")
        chosen += [s for s in SUITES[name] if s not in chosen]
    return chosen


def _write_reports(results: list[dict[str, Any]], name: str, out: Path, console: "Console") -> None:
    from lumos_core.cli.screens import results_table
    from lumos_core.errors import DataError
    from lumos_core.experiments.poisoning.attack_table import attack_table, plot_heat_map
    from lumos_core.safe_files import write_atomically, write_json

    if not results:
        raise DataError(f"{out}: holds no finished run of this suite; run it without --report-only")
    write_json(out / "results.json", results)
    write_atomically(out / "table.md", attack_table(results).encode())
    plot_heat_map(results, out / "heat-map.png", name)
    headers = ("scenario", "seeds", "HR@20", "lost", "ER@10", "rank")
    console.print(results_table(headers, _screen_rows(results)))
    console.print(f"written: {out / 'results.json'}, table.md, heat-map.png")


def _screen_rows(results: list[dict[str, Any]]) -> "Iterator[list[str]]":
    """Means over seeds, scenario by scenario, under the name of each method."""
    from statistics import mean

    from lumos_core.cli.screens import number
    from lumos_core.experiments.poisoning.attack_table import by_cell, lost

    cells = by_cell(results)
    for method in dict.fromkeys(method for method, _ in cells):
        yield [method]
        for label, group in ((label, g) for (m, label), g in cells.items() if m == method):
            away = lost(results, group, "hr@20")
            yield [
                f"  {label}",
                str(len(group)),
                number(mean(r["hr@20"] for r in group), ".4f"),
                number(mean(away) if away else None, "+.4f"),
                number(mean(r["er@10"] for r in group), ".4f"),
                number(mean(r["target-rank"] for r in group), ".1%"),
            ]
