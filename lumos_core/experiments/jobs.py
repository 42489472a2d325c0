"""Runs in processes of their own, each with a result file, so that a suite can be gone on with."""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, TypeVar

from lumos_core.terminal import interrupts

Result = dict[str, Any]
OnResult = Callable[[Result, bool], None]
"""Called with each result and whether it was found rather than run."""
Job = TypeVar("Job")
_LOOK_SECONDS = 0.5  # between two looks for an interrupt


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

    Ctrl-C loses the runs in progress only. It is the parent's: workers do not see it, wherever
    they are in their start, and are ended at once, since a result is written whole or not at all.
    """
    results: list[Result] = []
    if not jobs:
        return results
    context = get_context("spawn")  # fork and torch's thread pools do not go together
    with ProcessPoolExecutor(processes, context, initializer=_start_worker) as pool:
        try:
            with interrupts.held():  # workers start here, and inherit it
                waiting = {pool.submit(work, job) for job in jobs}
            while waiting:
                # not for ever: polars has signals start a wait for a lock again, Ctrl-C unseen
                done, waiting = wait(waiting, _LOOK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    results.append(future.result())
                    on_result(results[-1], False)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():
                worker.terminate()
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
