"""`lumos compare`: variants × seeds on a data folder, everything else equal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lumos_core.cli.options import ConfigOption
from lumos_core.experiments.comparison.variants import VARIANTS

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_VARIANTS = "popularity,fedavg,confedsrs,centralised,lumos"
REFERENCE = "confedsrs"


def compare_command(
    data: Annotated[Path, typer.Argument(help="Folder made by `lumos prepare`.")],
    out: Annotated[Path, typer.Option(help="Folder for results, table and picture.")],
    variants: Annotated[
        str, typer.Option(help=f"Comma-separated, or 'all'. There are: {', '.join(VARIANTS)}.")
    ] = DEFAULT_VARIANTS,
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0,1,2",
    reference: Annotated[
        str | None,
        typer.Option(help=f"Differences are relative to it ({REFERENCE}, or else the first)."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    config: ConfigOption = None,
) -> None:
    """Run methods, ablations and controls under equal conditions; write JSON, table, picture.

    Interrupted, it goes on where it was when started again. A folder that holds runs of the same
    base configuration keeps them in its table; one with another configuration is refused.
    """
    from rich.console import Console

    from lumos_core.cli.options import check_out, defaults_for, integers, names, with_overrides
    from lumos_core.data.pooled import merged_text
    from lumos_core.experiments.comparison.compare import MERGED, kept_results, plan, run_jobs
    from lumos_core.experiments.jobs import Result
    from lumos_core.terminal.progress import Progress

    chosen = list(VARIANTS) if variants == "all" else names(variants, "--variants")
    base = with_overrides(defaults_for(data), config, {"seed": "--seeds", "method": "--variants"})
    planned = plan(data, out, chosen, integers(seeds, "--seeds"), base)
    kept = kept_results(out, data, base)
    shown = chosen + [v for v in VARIANTS if v not in chosen and v in {r["variant"] for r in kept}]
    reference = _reference(reference, shown)
    check_out(out)
    console = Console()
    with Progress(console) as progress:
        task = progress.task(data.name, total=len(planned), unit="runs")

        def on_result(result: Result, found: bool) -> None:
            task.advance()
            test = result["test"]
            how = "kept" if found else f"{result['seconds']:.0f} s"
            console.print(
                f"{result['variant']:>24} seed {result['seed']}  HR@20 {test['hr@20']:.4f}  "
                f"NDCG@20 {test['ndcg@20']:.4f}  [dim]{how}[/]",
                soft_wrap=True,
            )

        results = run_jobs(planned, jobs, on_result)
    if merged := max((result.get(MERGED, 0) for result in results), default=0):
        console.print(f"[yellow]warning:[/] {merged_text(merged)}", soft_wrap=True)
    done = {(r["variant"], r["seed"]) for r in results}
    results += [r for r in kept if (r["variant"], r["seed"]) not in done]
    order = {name: i for i, name in enumerate(shown)}
    results.sort(key=lambda r: (order[r["variant"]], r["seed"]))
    _write_reports(results, data.name, out, reference, console)


def _reference(chosen: str | None, names: list[str]) -> str:
    """What to compare with; found out now, not when the table is written, hours later."""
    from lumos_core.errors import ConfigError

    if chosen is None:
        return REFERENCE if REFERENCE in names else names[0]
    if chosen not in names:
        raise ConfigError(
            f"--reference {chosen!r}: expected one of the variants in the table: "
            f"{', '.join(names)}; name one of them, or add it to --variants"
        )
    return chosen


def _write_reports(
    results: list[dict[str, object]], name: str, out: Path, reference: str, console: "Console"
) -> None:
    from lumos_core.cli.screens import results_table
    from lumos_core.experiments.comparison.comparison_table import (
        comparison_table,
        plot_curves,
        table_rows,
    )
    from lumos_core.safe_files import write_atomically, write_json

    write_json(out / "results.json", results)
    write_atomically(out / "table.md", comparison_table(results, reference).encode())
    plot_curves(results, out / "curves.png", f"{name}: validation by round")
    headers = ("variant", "seeds", "HR@20", "NDCG@20", f"HR vs {reference}")
    shown = (row[:-1] for row in table_rows(results, reference))  # the last does not fit
    console.print(results_table(headers, shown))
    console.print(f"written: {out / 'results.json'}, table.md, curves.png")
