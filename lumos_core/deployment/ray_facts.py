"""A program that joins a Ray cluster and asks each of its machines what it has; a process of its
own, because Ray changes signal handlers, loggers and the environment of the process that joins.

``python -m lumos_core.deployment.ray_facts DATA MARK OUT`` reads ``RAY_ADDRESS`` from its
environment and writes a list of :class:`~lumos_core.deployment.ray_cluster.Machine` as JSON.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

SECONDS = 60.0  # a machine starts a process and imports LUMOS


def facts(data: str, mark: str) -> dict[str, Any]:
    """Of the machine that this runs on. As a function of ``__main__`` it travels as code: the
    machine need not have LUMOS, or has another one."""
    import os
    from pathlib import Path

    folder = Path(data)
    found: dict[str, Any] = {
        "shared": (folder / mark).exists(),
        "writable": os.access(folder, os.W_OK),
    }
    try:
        from importlib.metadata import version

        from lumos_core.flower.commands import app_digest

        found["app"] = app_digest()
        found["torch"] = version("torch")
    except Exception as error:
        found["problem"] = f"{type(error).__name__}: {error}"
    return found


def ask_all(data: str, mark: str) -> list[dict[str, Any]]:
    """The facts of each machine of the cluster on which ClientApps can run."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # as Flower's RayBackend.init_ray: its ClientApps find packages in the same places
    search = os.pathsep.join(sys.path)
    ray.init(
        runtime_env={"env_vars": {"PYTHONPATH": search}},
        include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    task = ray.remote(num_cpus=0, max_retries=0)(facts)
    asked = []
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    for node in nodes:
        cpus = int(node["Resources"].get("CPU", 0))
        if node["Alive"] and cpus:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            reply = task.options(scheduling_strategy=there).remote(data, mark)
            asked.append(({"address": node["NodeManagerAddress"], "cpus": cpus}, reply))
    found = []
    for known, reply in asked:
        try:
            found.append(known | ray.get(reply, timeout=SECONDS))
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()
            found.append(known | {"problem": reason[0] if reason else type(error).__name__})
    ray.shutdown()
    return found


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(ask_all(sys.argv[1], sys.argv[2])), encoding="utf-8")
