"""Runs methods × scenarios × seeds, each run a file of its own, so that it can be gone on with."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lumos_core.config import RunConfig
from lumos_core.experiments.comparison.compare import data_facts, versions
from lumos_core.experiments.jobs import OnResult, Result, read_result, run_missing
from lumos_core.experiments.poisoning.defences import method_config
from lumos_core.experiments.poisoning.scenarios import Scenario
from lumos_core.safe_files import write_json


@dataclass(frozen=True)
class Job:
    """One run: picklable, so that a process of its own can do it."""

    method: str
    scenario: Scenario
    data: Path
    out: Path
    config: RunConfig  # complete, seed and defence included
    rounds: tuple[int, int]
    data_facts: (
        Result  # what distinguishes the data, see lumos_core/experiments/comparison/compare.py
    )

    @property
    def path(self) -> Path:
        name = f"{self._method}-{self.scenario.name}-seed{self.config.seed}.json"
        return self.out / "runs" / name

    @property
    def clean(self) -> Path:
        """The model that attacks start from; trained on this data and no other."""
        data = self.data_facts["interactions"][:8]
        name = f"{self._method}-{self.scenario.honest}-seed{self.config.seed}-{data}.safetensors"
        return self.out / "clean" / name

    @property
    def _method(self) -> str:
        return self.method.replace(":", "+")

    def facts(self) -> Result:
        """What distinguishes the run from others."""
        return {
            "method": self.method,
            "scenario": self.scenario.to_dict(),
            "seed": self.config.seed,
            "data": self.data.name,
            **self.data_facts,
            "rounds": list(self.rounds),
            "config": self.config.without_paths(),
        }


def plan(
    data: Path,
    out: Path,
    methods: Sequence[str],
    scenarios: Sequence[Scenario],
    seeds: Iterable[int],
    base: RunConfig,
    rounds: tuple[int, int],
) -> list[Job]:
    """All runs: scenario by scenario, so that an interrupted suite has whole columns first.

    Raises:
        ConfigError: a method or defence is unknown.
        DataError: ``data`` is no prepared folder.
    """
    facts = data_facts(data)
    configs = {
        (m, s): method_config(m, base.replace(seed=s, rounds=sum(rounds)))
        for s in seeds
        for m in methods
    }
    return [
        Job(method, scenario, data, out, config, rounds, facts)
        for scenario in scenarios
        for (method, _), config in configs.items()
    ]


def run_jobs(jobs: Sequence[Job], processes: int, on_result: OnResult) -> list[Result]:
    """Run what has not been run, ``processes`` at a time, one thread each."""
    results = finished(jobs)
    done = {_key(result) for result in results}
    for result in results:
        on_result(result, True)
    missing = [job for job in jobs if _key(job.facts()) not in done]
    return results + run_missing(run_job, missing, processes, on_result)


def run_job(job: Job) -> Result:
    """Do one run and keep its result."""
    from lumos_core.experiments.poisoning.bench import run_scenario

    started, cpu = time.perf_counter(), time.process_time()
    measured = run_scenario(job.scenario, job.config, job.data, job.clean, job.rounds)
    result = {
        **job.facts(),
        **measured,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "versions": versions(),
    }
    write_json(job.path, result)
    return result


def finished(jobs: Sequence[Job]) -> list[Result]:
    """Results of those jobs that have been run, in order."""
    return [r for job in jobs if (r := read_result(job.path, job.facts())) is not None]


def _key(facts: Result) -> str:
    return json.dumps([facts["method"], facts["scenario"], facts["seed"]], sort_keys=True)
