"""Shorter waits inside Flower 1.39, made by changing Flower's private names.

A SuperNode asks for work every 3 seconds, and a process that fetches a message's arrays before all
of them have been uploaded waits 1, 2, 4 … 10 seconds. Flower has no setting for either. This module
shortens the first wait to one second, or to ``LUMOS_POLL_SECONDS`` in the environment of ``lumos
run``, ``lumos deploy server`` and ``lumos node start``, and the second to 0.05 … 0.5 seconds; with
``LUMOS_POLL_SECONDS=3`` both stay as they are. Shorter waits mean more requests to the SuperLink.

Flower may rename its private names at any time. So they are changed only if Flower's version is the
one that this module was written for and the names are as expected; otherwise a warning is logged.

``live_supernode.py`` and ``preload_server.py`` load the file by its path, not as a part of
``lumos_core``, so it imports nothing but Flower.
"""

import importlib
import logging
import os
import time
from collections.abc import Mapping
from importlib.metadata import version
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
    """Seconds between two requests of a node for work.

    Raises:
        SystemExit: the variable is not a number of seconds in the allowed range.
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
    """Whether waits should be shorter than Flower's."""
    return poll_seconds(environment) < FLOWERS_SECONDS


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
