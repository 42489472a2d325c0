"""`lumos attack`: malicious nodes in otherwise real federations, and what they achieve."""

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
from lumos_core.errors import require_extra
from lumos_core.experiments.poisoning.defences import DEFENCES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lumos_core.cli.screens import ResultsTable
    from lumos_core.config import RunConfig
    from lumos_core.experiments.poisoning.scenarios import Scenario
    from lumos_core.experiments.poisoning.suite import AttackRun
    from lumos_core.experiments.results_file import Result, ResultsFile
    from lumos_core.pages.page import Page

DEFAULT_METHODS = "lumos:default,lumos,fedavg,confedsrs"


def attack_command(
    data: Annotated[Path, typer.Argument(help="Folder made by `lumos prepare`.")],
    out: Annotated[Path, typer.Option(help="Folder for results, table and heat map.")],
    suite: Annotated[
        str,
        typer.Option(
            help="One or more of smoke, paper, published, defences, uneven, grid; comma-separated."
        ),
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
    attack_rounds: Annotated[
        int, typer.Option(min=1, help="Rounds in which the malicious nodes take part.")
    ] = 4,
    clients: Annotated[
        Literal["nodes", "users"],
        typer.Option(
            help="users: each user is a client, whatever number of nodes a suite says; `fraction` "
            "of them train in a round."
        ),
    ] = "nodes",
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing; report the runs that have finished.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Run suites of attacks on federations; write results, a table and a heat map.

    If it is interrupted, it resumes when the same command is started again.
    """
    from lumos_core.cli.suites import run_suite

    require_extra("matplotlib", "plots", "the heat map")
    own = {"seed": "--seeds", "method": "--methods", "rounds": "--clean-rounds, --attack-rounds"}
    rounds = clean_rounds + attack_rounds
    unmasked(config)
    base = measured(with_overrides(defaults_for(data, rounds=rounds), config, own))
    attacks = _Attacks(
        names(methods, "--methods"), _scenarios(suite, clients, data), integers(seeds, "--seeds"),
        (clean_rounds, attack_rounds),
    )  # fmt: skip
    run_suite(attacks, data, out, base, jobs, report_only=report_only)


@dataclass(frozen=True)
class _Attacks:
    """The suite of this command: methods × scenarios × seeds.

    Attributes:
        rounds: clean rounds, rounds under attack.
    """

    methods: "Sequence[str]"
    scenarios: "Sequence[Scenario]"
    seeds: "Sequence[int]"
    rounds: tuple[int, int]
    picture = "heat-map.png"

    def plan(self, data: Path, out: Path, base: "RunConfig") -> "list[AttackRun]":
        from lumos_core.experiments.poisoning.suite import plan_attacks

        return plan_attacks(data, out, self.methods, self.scenarios, self.seeds, base, self.rounds)

    def check(self, kept: "Mapping[str, Result]", data: Path, out: Path, base: "RunConfig") -> None:
        """Refuse nothing: results of other runs stay in the folder and are not in the table."""

    def complete(self, file: "ResultsFile", data: Path) -> None:
        """Results of attacks lack nothing."""

    def follow(
        self, results: "Sequence[Result]", data: Path, base: "RunConfig"
    ) -> "Sequence[AttackRun]":
        """No run depends on another one's result."""
        return ()

    def line(self, result: "Result") -> str:
        from lumos_core.experiments.poisoning.attack_table import scenario_label

        return (
            f"{result['method']:>20}  {scenario_label(result['scenario']):<40} "
            f"seed {result['seed']}  HR@20 {result['hr@20']:.4f}  ER@10 {result['er@10']:.4f}"
        )

    def collect(self, jobs: "Sequence[AttackRun]", results: "Sequence[Result]") -> "list[Result]":
        """The results of those requested runs that have finished."""
        from lumos_core.experiments.jobs import find_results

        return [result for result in find_results(jobs, results) if result is not None]

    def table(self, results: "Sequence[Result]") -> str:
        from lumos_core.experiments.poisoning.attack_table import attack_table

        return attack_table(results)

    def draw(self, results: "Sequence[Result]", path: Path, name: str) -> None:
        from lumos_core.experiments.poisoning.attack_table import plot_heat_map

        plot_heat_map(results, path, name)

    def page(self, results: "Sequence[Result]", name: str) -> "Page":
        from lumos_core.experiments.poisoning.attack_page import attack_page

        return attack_page(results, name)

    def screen(self, results: "Sequence[Result]") -> "ResultsTable":
        from lumos_core.cli.screens import results_table

        headers = ("scenario", "seeds", "HR@20", "lost", "ER@10", "rank")
        return results_table(headers, _screen_rows(results))


def _scenarios(suites: str, clients: str, data: Path) -> "list[Scenario]":
    """The scenarios of one or more suites, each once."""
    from lumos_core.data.prepared_folder import load_prepared
    from lumos_core.errors import ConfigError
    from lumos_core.experiments.poisoning.scenarios import SUITES, of_users

    chosen: list[Scenario] = []
    for name in names(suites, "--suite"):
        if name not in SUITES:
            raise ConfigError(f"--suite {name!r}: unknown; known are: {', '.join(SUITES)}")
        chosen += [s for s in SUITES[name] if s not in chosen]
    if clients == "nodes":
        return chosen
    return of_users(chosen, sum(map(len, load_prepared(data)[1])))


def _screen_rows(results: "Sequence[Result]") -> "Iterator[list[str]]":
    """For each method: its name, then a row per scenario with means over the seeds."""
    from statistics import mean

    from lumos_core.cli.screens import number
    from lumos_core.experiments.poisoning.attack_table import by_cell, lost

    cells = by_cell(results)
    for method in dict.fromkeys(method for method, _ in cells):
        yield [method]
        for label, group in ((label, g) for (m, label), g in cells.items() if m == method):
            losses = lost(results, group, "hr@20")
            yield [
                f"  {label}",
                str(len(group)),
                number(mean(r["hr@20"] for r in group), ".4f"),
                number(mean(losses) if losses else None, "+.4f"),
                number(mean(r["er@10"] for r in group), ".4f"),
                number(mean(r["target-rank"] for r in group), ".1%"),
            ]
