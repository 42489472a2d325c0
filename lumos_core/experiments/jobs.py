"""Runs in processes of their own, each with a result file, so that a suite can be gone on with."""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

Result = dict[str, Any]
OnResult = Callable[[Result, bool], None]
"""Called with each result and whether it was found rather than run."""
Job = TypeVar("Job")


def read_result(path: Path, wanted: Result) -> Result | None:
    """What a finished run has written; None if there is nothing, only a part, or another run.

    Args:
        wanted: keys that the result must have, with their values.
    """
    try:
        found: Result = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found if all(found.get(key) == value for key, value in wanted.items()) else None


def run_missing(
    work: Callable[[Job], Result], jobs: Sequence[Job], processes: int, on_result: OnResult
) -> list[Result]:
    """Do jobs, ``processes`` at a time, one thread each; results in the order they come.

    Ctrl-C loses the runs in progress only.
    """
    results: list[Result] = []
    if not jobs:
        return results
    context = get_context("spawn")  # fork and torch's thread pools do not go together
    with ProcessPoolExecutor(processes, context, initializer=_start_worker) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(futures):
                results.append(future.result())
                on_result(results[-1], False)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _start_worker() -> None:
    """One thread for torch; and an end with the parent, which may be killed outright."""
    import torch

    torch.set_num_threads(1)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
