"""metrics.json of the centralised baseline: what a run takes from it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lumos_core.deployment.centralised_child import (
    METRICS_FILE,
    CentralisedMetrics,
    wait_for_baselines,
)
from lumos_core.errors import FederationError, NewerFileError
from lumos_core.runs.report import CENTRALISED, Row

OLD = """{
  "data": "prepared",
  "config": {"method": "fedavg", "seed": 3, "dp-clip": 1.0, "secure-aggregation": false},
  "centralised": {
    "epochs": 9, "best_epoch": 4, "seconds": 1.5, "validation": {"hr@20": 0.5},
    "test": {"hr@20": 0.4}
  },
  "popularity": {"hr@20": 0.1},
  "versions": {"python": "3.11.2"}
}
"""
"""As it was written before there were schema versions."""


@pytest.fixture
def child() -> Any:
    return SimpleNamespace(exit_code=0, log="a.log", last_lines=lambda: "the end")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "centralised").mkdir()
    return tmp_path / "centralised" / METRICS_FILE


def test_metrics_of_before_there_were_versions_are_read(child: Any, path: Path) -> None:
    path.write_text(OLD)
    assert wait_for_baselines(child, path.parent.parent) == [
        Row(CENTRALISED, {"hr@20": 0.4}), Row("popularity", {"hr@20": 0.1})
    ]  # fmt: skip
    CentralisedMetrics.read(path).write(path)
    old = json.loads(OLD)
    now = {**old, "centralised": {**old["centralised"], "title_weight": 0.0}}
    assert json.loads(path.read_text()) == {"schema_version": 1, **now}


def test_newer_and_damaged_metrics_are_refused(child: Any, path: Path) -> None:
    path.write_text('{"schema_version": 2}')
    with pytest.raises(NewerFileError, match=r"metrics\.json: has schema version 2"):
        wait_for_baselines(child, path.parent.parent)
    path.write_text('{"centralised": {}}')
    with pytest.raises(FederationError, match=r"metrics\.json: key 'centralised.test' is missing"):
        wait_for_baselines(child, path.parent.parent)


def test_without_metrics_the_child_s_last_words_are_told(child: Any, tmp_path: Path) -> None:
    with pytest.raises(FederationError, match=r"baseline failed; the end of a\.log:\nthe end"):
        wait_for_baselines(child, tmp_path)
