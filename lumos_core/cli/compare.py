"""`lumos compare`: variants × seeds on one data folder, everything else being equal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lumos_core.cli.options import ConfigOption
from lumos_core.errors import require_extra
from lumos_core.experiments.comparison.variants import VARIANTS

if TYPE_CHECKING:
    from lumos_core.cli.screens import ResultsTable
    from lumos_core.config import RunConfig
    from lumos_core.experiments.comparison.compare import VariantRun
    from lumos_core.experiments.results_file import Result

DEFAULT_VARIANTS = "popularity,fedavg,confedsrs,centralised,lumos"
REFERENCE = "confedsrs"


def compare_command(
    data: Annotated[Path, typer.Argument(help="Folder made by `lumos prepare`.")],
    out: Annotated[Path, typer.Option(help="Folder for results, table and picture.")],
    variants: Annotated[
        str, typer.Option(help=f"Comma-separated, or 'all'. Known are: {', '.join(VARIANTS)}.")
    ] = DEFAULT_VARIANTS,
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0,1,2",
    reference: Annotated[
        str | None,
        typer.Option(
            help=f"Variant that the others are compared with (default: {REFERENCE} if it is in the "
            "table, otherwise the first)."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    config: ConfigOption = None,
) -> None:
    """Run methods, ablations and controls under equal conditions; write results, table, picture.

    If it is interrupted, it resumes when the same command is started again. Runs that the folder
    holds already stay in its table; a folder whose runs have another base configuration is refused.
    """
    from rich.console import Console

    from lumos_core.cli.options import defaults_for, integers, names, with_overrides
    from lumos_core.cli.suites import run_suite
    from lumos_core.data.pooled import merged_text
    from lumos_core.experiments.comparison.compare import MERGED

    require_extra("matplotlib", "plots", "the picture of the comparison")
    chosen = list(VARIANTS) if variants == "all" else names(variants, "--variants")
    base = with_overrides(defaults_for(data), config, {"seed": "--seeds", "method": "--variants"})
    suite = _Comparison(chosen, integers(seeds, "--seeds"), reference)
    results = run_suite(suite, data, out, base, jobs)
    if merged := max((result.get(MERGED, 0) for result in results), default=0):
        Console().print(f"[yellow]warning:[/] {merged_text(merged)}", soft_wrap=True)


@dataclass(frozen=True)
class _Comparison:
    """The suite of this command.

    Attributes:
        variants, seeds: what is to be run.
        reference: the variant that the others are compared with; None for the default.
    """

    variants: Sequence[str]
    seeds: Sequence[int]
    reference: str | None
    picture = "curves.png"

    def plan(self, data: Path, out: Path, base: "RunConfig") -> "list[VariantRun]":
        from lumos_core.experiments.comparison.compare import plan_comparison

        return plan_comparison(data, self.variants, self.seeds, base)

    def check(self, kept: "Mapping[str, Result]", data: Path, out: Path, base: "RunConfig") -> None:
        from lumos_core.experiments.comparison.compare import check_kept

        self._reference_among(self._shown(check_kept(kept, out, data, base)))

    def line(self, result: "Result") -> str:
        test = result["test"]
        return (
            f"{result['variant']:>24} seed {result['seed']}  HR@20 {test['hr@20']:.4f}  "
            f"NDCG@20 {test['ndcg@20']:.4f}"
        )

    def collect(self, jobs: "Sequence[VariantRun]", results: "Sequence[Result]") -> "list[Result]":
        """All results that the folder holds, one per variant and seed."""
        from lumos_core.experiments.comparison.compare import is_variant

        found = {(r["variant"], r["seed"]): r for r in results if is_variant(r)}
        order = {name: i for i, name in enumerate(self._shown(list(found.values())))}
        return sorted(found.values(), key=lambda r: (order[r["variant"]], r["seed"]))

    def table(self, results: "Sequence[Result]") -> str:
        from lumos_core.experiments.comparison.comparison_table import comparison_table

        return comparison_table(results, self._reference_among(self._shown(results)))

    def draw(self, results: "Sequence[Result]", path: Path, name: str) -> None:
        from lumos_core.experiments.comparison.comparison_table import plot_curves

        plot_curves(results, path, f"{name}: validation by round")

    def screen(self, results: "Sequence[Result]") -> "ResultsTable":
        from lumos_core.cli.screens import results_table
        from lumos_core.experiments.comparison.comparison_table import table_rows

        reference = self._reference_among(self._shown(results))
        headers = ("variant", "seeds", "HR@20", "NDCG@20", f"HR vs {reference}")
        rows = table_rows(results, reference)
        return results_table(headers, (row[:-1] for row in rows))  # the last column does not fit

    def _shown(self, results: "Sequence[Result]") -> list[str]:
        """Variants in the table: the requested ones, then others that the folder holds."""
        there = {result["variant"] for result in results}
        return [*self.variants, *(v for v in VARIANTS if v in there and v not in self.variants)]

    def _reference_among(self, shown: Sequence[str]) -> str:
        """The variant to compare with; :meth:`check` calls this too, before anything runs.

        Raises:
            ConfigError: the table does not have it.
        """
        from lumos_core.errors import ConfigError

        if self.reference is None:
            return REFERENCE if REFERENCE in shown else shown[0]
        if self.reference not in shown:
            raise ConfigError(
                f"--reference {self.reference!r}: expected one of the variants in the table: "
                f"{', '.join(shown)}; name one of them, or add it to --variants"
            )
        return self.reference
