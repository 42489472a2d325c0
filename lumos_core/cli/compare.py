"""`lumos compare`: variants × seeds on one data folder, everything else being equal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lumos_core.cli.options import (
    ConfigOption,
    defaults_for,
    integers,
    measured,
    names,
    unmasked,
    with_overrides,
)
from lumos_core.errors import ConfigError, require_extra
from lumos_core.experiments.comparison.variants import NEED_OTHER_USERS, VARIANTS

if TYPE_CHECKING:
    from lumos_core.cli.screens import ResultsTable
    from lumos_core.config import RunConfig
    from lumos_core.experiments.comparison.variant_runs import Partition, VariantRun
    from lumos_core.experiments.results_file import Result, ResultsFile
    from lumos_core.pages.page import Page

DEFAULT_VARIANTS = "popularity,markov-3,markov-titles,fedavg,confedsrs,centralised,lumos"
ONE_USER_VARIANTS = "fedavg,popularity,markov-3,markov-titles,fedavg-plus,centralised,lumos"
"""The default with ``--clients users``, where `confedsrs` has nobody to contrast a user with."""
REFERENCE = "confedsrs"


def compare_command(
    data: Annotated[Path, typer.Argument(help="Folder made by `lumos prepare`.")],
    out: Annotated[Path, typer.Option(help="Folder for results, table and picture.")],
    variants: Annotated[
        str | None,
        typer.Option(
            help=f"Comma-separated, or 'all'. Known are: {', '.join(VARIANTS)} (default: "
            f"{DEFAULT_VARIANTS}; with --clients users: {ONE_USER_VARIANTS})."
        ),
    ] = None,
    ablations: Annotated[
        str | None,
        typer.Option(
            help="More variants, run with the first seed only: intervals are then over users alone."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0,1,2",
    reference: Annotated[
        str | None,
        typer.Option(
            help=f"Variant that the others are compared with (default: {REFERENCE} if it is in the "
            "table, otherwise the first)."
        ),
    ] = None,
    partition: Annotated[
        Literal["stored", "drawn"],
        typer.Option(
            help="The users of a node: those of its folder, or those that each seed draws for it."
        ),
    ] = "stored",
    clients: Annotated[
        Literal["nodes", "users"],
        typer.Option(
            help="What a client of a federation is: a node with its users, or a single user. The "
            "clients of a round then train together."
        ),
    ] = "nodes",
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Tune every family of variants alike: a small grid on the first seed, the best "
            "point on validation for all its runs.",
        ),
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    config: ConfigOption = None,
) -> None:
    """Run methods, ablations and controls under equal conditions; write results, table, picture.

    If it is interrupted, it resumes when the same command is started again. Runs that the folder
    holds already stay in its table; a folder whose runs have another base configuration is refused.
    """
    from rich.console import Console

    from lumos_core.cli.suites import run_suite
    from lumos_core.experiments.comparison.variant_runs import MERGED

    require_extra("matplotlib", "plots", "the picture of the comparison")
    if clients == "users" and partition == "drawn":
        raise ConfigError(
            "--partition drawn deals users out to nodes; with --clients users each is a client: "
            "leave one of them out"
        )
    default = DEFAULT_VARIANTS if clients == "nodes" else ONE_USER_VARIANTS
    everything = [v for v in VARIANTS if clients == "nodes" or v not in NEED_OTHER_USERS]
    chosen = everything if variants == "all" else names(variants or default, "--variants")
    once = [v for v in names(ablations, "--ablations") if v not in chosen] if ablations else []
    own = {"seed": "--seeds", "method": "--variants"}
    unmasked(config)
    base = measured(with_overrides(defaults_for(data), config, own), by_time=True)
    of_nodes: Partition = "users" if clients == "users" else partition
    suite = _Comparison(chosen, once, integers(seeds, "--seeds"), reference, of_nodes, tune)
    results = run_suite(suite, data, out, base, jobs)
    if merged := max((result.get(MERGED, 0) for result in results), default=0):
        Console().print(
            f"[yellow]warning:[/] users with interactions on more than one node: {merged}; every "
            "variant but local ranks each of them once, with one history, merged in the order of "
            "time; a federation trains on each node's part of it",
            soft_wrap=True,
        )


@dataclass(frozen=True)
class _Comparison:
    """The suite of this command.

    Attributes:
        variants: what is to be run with each seed.
        ablations: others, for the first seed.
        seeds: of training, and of the partition where that is drawn.
        reference: the variant that the others are compared with; None for the default.
        partition: which users a node has.
        tune: whether families of variants are tuned first.
    """

    variants: Sequence[str]
    ablations: Sequence[str]
    seeds: Sequence[int]
    reference: str | None
    partition: "Partition" = "stored"
    tune: bool = False
    picture = "curves.png"

    def plan(self, data: Path, out: Path, base: "RunConfig") -> "list[VariantRun]":
        """The runs of the tuning grid, or, where nothing is tuned, of the table."""
        from lumos_core.experiments.comparison.compare import check_names, plan_tuning

        check_names(self._asked)
        if self.tune:
            return plan_tuning(data, self._asked, self.seeds[0], base, self.partition)
        return self._runs(data, base)

    def _runs(
        self, data: Path, base: "RunConfig", choices: "Mapping[str, str] | None" = None
    ) -> "list[VariantRun]":
        """All runs of the table, at these points of the grid."""
        from lumos_core.experiments.comparison.compare import plan_comparison

        return [
            run
            for names, seeds in ((self.variants, self.seeds), (self.ablations, self.seeds[:1]))
            for run in plan_comparison(data, names, seeds, base, self.partition, choices)
        ]

    def check(self, kept: "Mapping[str, Result]", data: Path, out: Path, base: "RunConfig") -> None:
        from lumos_core.experiments.comparison.compare import check_kept

        seed = self.seeds[0] if self.tune else None
        found = check_kept(kept, out, data, base, self.partition, seed)
        self._reference_among(self._shown(found))

    def complete(self, file: "ResultsFile", data: Path) -> None:
        from lumos_core.experiments.comparison.variant_runs import add_user_facts

        add_user_facts(file, data)

    def follow(
        self, results: "Sequence[Result]", data: Path, base: "RunConfig"
    ) -> "list[VariantRun]":
        """The runs of the table, at the chosen points of the grid. A representative's run on the
        first seed is there already: it is a point of the grid."""
        from lumos_core.experiments.comparison import tuning

        if not self.tune:
            return []
        planned = self._runs(data, base, tuning.choices(results))
        there = {(r["variant"], r["seed"]) for r in results}
        return [run for run in planned if (run.variant, run.config.seed) not in there]

    def line(self, result: "Result") -> str:
        test, point = result["test"], result.get("tuning")
        return (
            f"{result['variant']:>24} seed {result['seed']}  HR@20 {test['hr@20']:.4f}  "
            f"NDCG@20 {test['ndcg@20']:.4f}" + (f"  tuning: {point}" if point else "")
        )

    def collect(self, jobs: "Sequence[VariantRun]", results: "Sequence[Result]") -> "list[Result]":
        """All results that the folder holds, one per variant and seed."""
        from lumos_core.experiments.comparison.compare import is_variant
        from lumos_core.experiments.comparison.tuning import in_table

        complete = in_table(r for r in results if is_variant(r))
        return list({(r["variant"], r["seed"]): r for r in complete}.values())

    def table(self, results: "Sequence[Result]") -> str:
        from lumos_core.experiments.comparison.comparison_table import comparison_table

        return comparison_table(results, self._reference_among(self._shown(results)))

    def draw(self, results: "Sequence[Result]", path: Path, name: str) -> None:
        from lumos_core.experiments.comparison.curves_picture import plot_curves

        plot_curves(results, path, f"{name}: validation by round")

    def page(self, results: "Sequence[Result]", name: str) -> "Page":
        from lumos_core.experiments.comparison.comparison_page import comparison_page

        return comparison_page(results, self._reference_among(self._shown(results)), name)

    def screen(self, results: "Sequence[Result]") -> "ResultsTable":
        from lumos_core.cli.screens import results_table
        from lumos_core.experiments.comparison.comparison_table import screen_table

        return results_table(*screen_table(results, self._reference_among(self._shown(results))))

    def _shown(self, results: "Sequence[Result]") -> list[str]:
        """Variants that are in the table: the requested ones, then others of the folder."""
        there = {result["variant"] for result in results}
        return [*self._asked, *(v for v in VARIANTS if v in there and v not in self._asked)]

    @property
    def _asked(self) -> list[str]:
        return [*self.variants, *self.ablations]

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
