"""The centralised baseline, trained during a federation by a child process of lowest priority.

The child runs the public command ``lumos train-central``, with the federation's model, optimiser
and initial parameters.
"""

import os
import sys
import time
from pathlib import Path
from typing import ClassVar

import psutil
from pydantic import BaseModel, Field

from lumos_core.config import RunConfig, Scalar
from lumos_core.errors import FederationError, LumosError
from lumos_core.processes.children import Child, Children
from lumos_core.runs.report import CENTRALISED, Row
from lumos_core.safe_files import JsonFile

METRICS_FILE = "metrics.json"
"""Its name in the folder of ``lumos train-central``."""
_FEDERATED_KEYS = {"method", "catalog", "run-dir"}
_LOWEST_PRIORITY = 19
_COMMAND = "from lumos_core.cli.app import main; main()"


class CentralisedResult(BaseModel):
    """How training went, see :func:`~lumos_core.learning.baselines.train_centralised`."""

    epochs: int = 0
    best_epoch: int = 0
    title_weight: float = 0.0
    seconds: float = 0.0
    validation: dict[str, float] = {}
    test: dict[str, float]


class CentralisedMetrics(JsonFile):
    """``metrics.json``: what ``lumos train-central`` has measured.

    Attributes:
        data: name of the data's folder.
        config: the configuration, flat.
        centralised: of the model that was trained on the pooled data.
        popularity: test metrics of the popularity baseline.
        versions: of the packages that it was measured with.
    """

    failure: ClassVar[type[LumosError]] = FederationError
    repair: ClassVar[str] = "the file is damaged: remove it, and run the same command again"

    data: str = ""
    config: dict[str, Scalar] = Field(default_factory=dict)
    centralised: CentralisedResult
    popularity: dict[str, float]
    versions: dict[str, str] = Field(default_factory=dict)


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
        FederationError: it failed, or its file is damaged.
        NewerFileError: a newer LUMOS wrote its file.
    """
    while child.exit_code is None:
        time.sleep(0.1)
    found = CentralisedMetrics.read_if_there(_folder(run_dir) / METRICS_FILE)
    if found is None:
        raise FederationError(
            f"the centralised baseline failed; the end of {child.log}:\n{child.last_lines()}"
        )
    return [Row(CENTRALISED, found.centralised.test), Row("popularity", found.popularity)]


def _folder(run_dir: Path) -> Path:
    return run_dir.resolve() / "centralised"
