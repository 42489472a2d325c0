"""Running the jobs of a suite: each in its own process, its result stored when it has finished.

A suite defines its jobs (:class:`Job`); this module does the rest. A job whose result is in the
results file is not run again, so an interrupted suite is resumed by starting it once more.
"""

import os
import platform
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import active_children, get_context
from pathlib import Path

from lumos_core.config import RunConfig, resolved
from lumos_core.data import Catalog
from lumos_core.data.layout import CATALOG_FILE
from lumos_core.data.prepared_folder import interactions_digest
from lumos_core.experiments.results_file import Result, ResultsFile
from lumos_core.terminal import interrupts

OnResult = Callable[[Result, bool], None]
"""Called with each result, and with True if it was found in the file, False if it was run now."""

_PACKAGES = ("lumos", "torch", "transformers", "flwr", "numpy")
_LOOK_SECONDS = 0.5  # between two looks for an interrupt


@dataclass(frozen=True)
class Job(ABC):
    """One run of a suite. It must be picklable, because another process does it.

    Attributes:
        data: a prepared folder.
        config: the complete configuration, including the seed.
    """

    data: Path
    config: RunConfig

    @abstractmethod
    def names(self) -> Result:
        """The run's names. With seed, configuration and data they identify the run. None: the
        result does not have the key."""

    @abstractmethod
    def work(self) -> Result:
        """Do the run; returns what was measured."""


# ---------------------------------------------------------------- facts
def data_facts(folder: Path) -> Result:
    """Fingerprints that identify the data of a prepared folder.

    Raises:
        DataError: it is not a prepared folder.
    """
    interactions = interactions_digest(folder)  # first: this knows a folder that is not prepared
    return {
        "catalog": Catalog.read(folder / CATALOG_FILE).fingerprint,
        "interactions": interactions,
    }


def library_versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"python": platform.python_version(), **{p: version(p) for p in _PACKAGES}}


def _facts(job: Job, data: Result) -> Result:
    """Keys and values that identify a job."""
    seed, config = job.config.seed, job.config.without_paths()
    return {**job.names(), "seed": seed, **data, "config": config}


# ---------------------------------------------------------------- running
def find_results(jobs: Sequence[Job], results: Iterable[Result]) -> list[Result | None]:
    """For every job: the result of an earlier run with the same names, configuration and data, or
    None. An earlier LUMOS may not have had all keys of the configuration."""
    kept = [(r, _comparable(r)) for r in results]
    data = {folder: data_facts(folder) for folder in {job.data for job in jobs}}
    found = []
    for job in jobs:
        facts = _comparable(_facts(job, data[job.data]))
        same = (r for r, whole in kept if all(whole.get(k) == value for k, value in facts.items()))
        found.append(next(same, None))
    return found


def _comparable(result: Result) -> Result:
    return {**result, "config": resolved(result.get("config", {}))}


def run_jobs(
    jobs: Sequence[Job], file: ResultsFile, processes: int, on_result: OnResult
) -> list[Result]:
    """Run the jobs whose results the file does not hold, ``processes`` at a time, one thread each.

    Every result is added to the file when its run finishes. Ctrl-C loses only the runs in progress.

    Returns:
        Results that were found, then the others in the order in which they finished.
    """
    file.convert_old()
    found = find_results(jobs, file.read().values())
    results = [result for result in found if result is not None]
    for result in results:
        on_result(result, True)
    missing = [job for job, result in zip(jobs, found, strict=True) if result is None]

    def keep(result: Result) -> None:
        file.append(result)
        results.append(result)

    _run_all(missing, processes, keep, lambda result: on_result(result, False))
    return results


def run_job(job: Job) -> Result:
    """Do one run; returns its whole result, as it is stored."""
    started, cpu = time.perf_counter(), time.process_time()
    facts = _facts(job, data_facts(job.data))
    return {
        **{key: value for key, value in facts.items() if value is not None},
        "data": job.data.name,
        **job.work(),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "versions": library_versions(),
    }


def _run_all(
    jobs: Sequence[Job],
    processes: int,
    keep: Callable[[Result], None],
    show: Callable[[Result], None],
) -> None:
    """Run jobs in worker processes. Only the parent sees Ctrl-C: workers do not, not even while
    they start; the parent ends them at once."""
    if not jobs:
        return
    context = get_context("spawn")  # fork does not work with torch's thread pools
    with ProcessPoolExecutor(processes, context, initializer=_start_worker) as pool:
        waiting: set[Future[Result]] = set()
        try:
            with interrupts.held():  # workers start here, and inherit the blocked signal
                waiting |= {pool.submit(run_job, job) for job in jobs}
            while waiting:
                # with a timeout: where polars is loaded, a signal restarts a wait for a lock, and
                # Ctrl-C would not be seen
                done, _ = wait(waiting, _LOOK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    with interrupts.held():
                        keep(result)
                        waiting.remove(future)
                    show(result)
        except BaseException:
            for worker in active_children():
                worker.terminate()
            # waits for the pool's own thread too, which otherwise closes pipes while Python exits
            pool.shutdown(wait=True, cancel_futures=True)
            for future in waiting:  # those that finished while another result was stored
                if future.done() and not future.cancelled() and future.exception() is None:
                    keep(future.result())
            raise


def _start_worker() -> None:
    """Give torch one thread, and end this worker with its parent, even if that is killed."""
    import torch

    torch.set_num_threads(1)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
