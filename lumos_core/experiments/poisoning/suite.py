"""Runs of methods × scenarios × seeds on one prepared data folder."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lumos_core.config import RunConfig
from lumos_core.experiments.jobs import Job, data_facts
from lumos_core.experiments.poisoning.defences import method_config
from lumos_core.experiments.poisoning.scenarios import Scenario
from lumos_core.experiments.results_file import Result


@dataclass(frozen=True)
class AttackRun(Job):
    """One run of a scenario.

    Attributes:
        method: "method" or "method:defence".
        rounds: clean rounds, rounds under attack.
        out: folder of the suite, which also holds the models that attacks start from.
    """

    method: str
    scenario: Scenario
    rounds: tuple[int, int]
    out: Path

    def names(self) -> Result:
        return {
            "method": self.method,
            "scenario": self.scenario.to_dict(),
            "rounds": list(self.rounds),
        }

    def work(self) -> Result:
        from lumos_core.experiments.poisoning.bench import run_scenario
        from lumos_core.experiments.poisoning.guards import guard_of

        guard = guard_of(self.method)
        return run_scenario(self.scenario, self.config, self.data, self.clean, self.rounds, guard)

    @property
    def clean(self) -> Path:
        """The model that attacks start from. Its name holds a digest of the data."""
        method = self.method.replace(":", "+")
        data = data_facts(self.data)["interactions"][:8]
        name = f"{method}-{self.scenario.honest}-seed{self.config.seed}-{data}.safetensors"
        return self.out / "clean" / name


def plan_attacks(
    data: Path,
    out: Path,
    methods: Sequence[str],
    scenarios: Sequence[Scenario],
    seeds: Iterable[int],
    base: RunConfig,
    rounds: tuple[int, int],
) -> list[AttackRun]:
    """All runs, scenario by scenario, so that an interrupted suite has complete scenarios.

    Raises:
        ConfigError: a method or defence is unknown.
    """
    configs = {
        (m, s): method_config(m, base.replace(seed=s, rounds=sum(rounds)))
        for s in seeds
        for m in methods
    }
    return [
        AttackRun(data, config, method, scenario, rounds, out)
        for scenario in scenarios
        for (method, _), config in configs.items()
    ]
