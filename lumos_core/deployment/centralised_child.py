"""The centralised baseline, trained during a federation by a child process of lowest priority.

The child runs the public command ``lumos train-central``, with the federation's model, optimiser
and initial parameters.
"""

import json
import os
import sys
import time
from pathlib import Path

import psutil

from lumos_core.config import RunConfig
from lumos_core.errors import FederationError
from lumos_core.processes.children import Child, Children
from lumos_core.runs.report import CENTRALISED, Row

_FEDERATED_KEYS = {"method", "catalog", "run-dir"}
_LOWEST_PRIORITY = 19
_COMMAND = "from lumos_core.cli.app import main; main()"


def start_baselines(children: Children, config: RunConfig, data: Path, run_dir: Path) -> Child:
    """Start training on the pooled data of ``data``; results go to ``run_dir/centralised``."""
    settings = [
        text
        for key, value in config.to_flat().items()
        if key not in _FEDERATED_KEYS
        for text in ("-c", f"{key}={value}")
    ]
    start = ["--semantic-start"] if config.semantic_start != "none" else []
    child = children.start(
        "centralised",
        [
            sys.executable, "-c", _COMMAND, "train-central", str(data.resolve()),
            "--out", str(_folder(run_dir)), *start, *settings,
        ],
        environment={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        cwd=run_dir,
    )  # fmt: skip
    psutil.Process(child.process.pid).nice(_LOWEST_PRIORITY)
    return child


def wait_for_baselines(child: Child, run_dir: Path) -> list[Row]:
    """Wait until the child has ended; returns the baselines' rows of the comparison.

    Raises:
        FederationError: it failed.
    """
    while child.exit_code is None:
        time.sleep(0.1)
    try:
        found = json.loads((_folder(run_dir) / "metrics.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FederationError(
            f"the centralised baseline failed; the end of {child.log}:\n{child.last_lines()}"
        ) from None
    return [Row(CENTRALISED, found["centralised"]["test"]), Row("popularity", found["popularity"])]


def _folder(run_dir: Path) -> Path:
    return run_dir.resolve() / "centralised"
