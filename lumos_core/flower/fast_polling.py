"""Shorter waits inside Flower 1.39, by names that are Flower's own business.

A SuperNode looks for work every 3 seconds, and whoever fetches a message's arrays before they have
all been uploaded waits 1, 2, 4 … 10 seconds. Neither can be set. Here it becomes one second, or
``LUMOS_POLL_SECONDS`` in the environment of ``lumos run``, ``lumos deploy server`` and ``lumos node
start``, and 0.05 to 0.5; with 3, everything stays as Flower has it. More looks cost the SuperLink
more requests. Since names are changed that Flower may rename at any time, nothing is, with a
warning, unless the version is the one that this was written for and all is as it was then.

Also a program, which runs one of Flower's with shorter waits. It and ``preload_server.py`` load
this file by its path, and not as a part of ``lumos_core``; so it needs nothing but Flower:

    python -P fast_polling.py PROGRAM ARGUMENT…
"""

import importlib
import logging
import os
import sys
import time
from collections.abc import Mapping
from importlib.metadata import entry_points, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

log = logging.getLogger(__name__)

SWITCH = "LUMOS_POLL_SECONDS"
FLOWER = "1.39."
POLL_SECONDS = 1.0
FLOWERS_SECONDS = 3.0
LEAST_SECONDS = 0.05
_NODE = "flwr.supernode.start_client_internal"
_OBJECTS = "flwr.supercore.inflatable.inflatable_utils"
_PULLS = ("pull_objects", "pull_and_inflate_object_from_tree")
_FOUND = {"initial_backoff": 1, "backoff_cap": 10, "max_tries_per_object": 500}
_BETTER = {"initial_backoff": 0.05, "backoff_cap": 0.5, "max_tries_per_object": 10_000}


def poll_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """How often a node is to look for work.

    Raises:
        SystemExit: the environment has something else than seconds there.
    """
    text = environment.get(SWITCH) or str(POLL_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not LEAST_SECONDS <= seconds <= FLOWERS_SECONDS:
        raise SystemExit(
            f"{SWITCH} = {text!r}, expected seconds from {LEAST_SECONDS:g} to {FLOWERS_SECONDS:g}, "
            "which is what Flower waits"
        )
    return seconds


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether anything is to be shorter than Flower has it."""
    return poll_seconds(environment) < FLOWERS_SECONDS


def program(path: str) -> list[str]:
    """How to start one of Flower's programs: as ever, or by way of this file.

    Raises:
        SystemExit: see :func:`poll_seconds`.
    """
    if not wanted():
        return [path]
    return [sys.executable, "-P", str(Path(__file__).absolute()), Path(path).name]


def shorten_pulls() -> bool:
    """Shorten the waits for a message's arrays, in this process; returns whether it was done."""
    if not _right_version():
        return False
    functions = [getattr(importlib.import_module(_OBJECTS), name, None) for name in _PULLS]
    defaults: list[dict[str, Any]] = [getattr(f, "__kwdefaults__", None) or {} for f in functions]
    if any({k: d.get(k) for k in _FOUND} != _FOUND for d in defaults):
        return _left("its waits for arrays are not where they were")
    for found in defaults:
        found.update(_BETTER)
    return True


def shorten_node_polls() -> bool:
    """Shorten a SuperNode's waits for work, in this process; returns whether it was done."""
    if not _right_version():
        return False
    module = importlib.import_module(_NODE)
    if getattr(module, "time", None) is not time:
        return _left("its SuperNode does not wait as it did")
    longest = poll_seconds()

    def sleep(seconds: float) -> None:
        time.sleep(min(seconds, longest))

    setattr(module, "time", SimpleNamespace(**{**vars(time), "sleep": sleep}))  # noqa: B010
    return True


def _right_version() -> bool:
    found = version("flwr")
    return found.startswith(FLOWER) or _left(f"it is for {FLOWER}*, found {found}")


def _left(reason: str) -> bool:
    log.warning("Flower's waits stay as they are: %s", reason)
    return False


def main() -> None:
    name = sys.argv[1]
    (entry,) = entry_points(group="console_scripts", name=name)
    run = entry.load()
    # Fast polls alone would be slower: a message shows before its arrays.
    if wanted() and shorten_pulls():
        shorten_node_polls()
    sys.argv = sys.argv[1:]
    sys.exit(run())


if __name__ == "__main__":
    main()
