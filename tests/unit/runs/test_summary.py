"""summary.json: what is written, what older and newer versions of it say, who reads it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lumos_core.errors import DataError, NewerFileError
from lumos_core.runs.folder import read_summary
from lumos_core.runs.status import status_of
from lumos_core.runs.summary import SUMMARY, RunSummary
from lumos_core.runs.view_coverage import RunViews

OLD = """{
  "outcome": "completed",
  "reason": "privacy budget: \\u03b5 is spent",
  "rounds": 2,
  "best_round": 1,
  "validation": {"hr@20": 0.5, "ndcg@20": 0.25, "users": 20},
  "test": {"hr@20": 0.4, "ndcg@20": 0.2},
  "epsilon": 2.5,
  "views": {"complete": false, "rounds": 2, "rounds_lacking": 1, "nodes": {"a": 1}, "share": 1.0},
  "bytes_up": 7,
  "bytes_down": 11,
  "method": "lumos",
  "seed": 3,
  "seconds": 9.25,
  "versions": {"python": "3.11.2", "flwr": "1.29.0"}
}
"""
"""As it was written before there were schema versions."""


def test_a_summary_of_before_there_were_versions_is_read(tmp_path: Path) -> None:
    (tmp_path / SUMMARY).write_text(OLD)
    found = read_summary(tmp_path)
    assert found == RunSummary(
        outcome="completed", reason="privacy budget: ε is spent", rounds=2, best_round=1,
        validation={"hr@20": 0.5, "ndcg@20": 0.25, "users": 20.0},
        test={"hr@20": 0.4, "ndcg@20": 0.2}, epsilon=2.5,
        views=RunViews(complete=False, rounds=2, rounds_lacking=1, nodes={"a": 1}),
        bytes_up=7, bytes_down=11, method="lumos", seed=3, seconds=9.25,
        versions={"python": "3.11.2", "flwr": "1.29.0"},
    )  # fmt: skip
    assert found.schema_version == 1
    status = status_of(tmp_path)
    assert (status.state, status.method, status.test) == ("completed", "lumos", found.test)


def test_what_is_written_has_the_old_keys_and_a_version(tmp_path: Path) -> None:
    (tmp_path / SUMMARY).write_text(OLD)
    RunSummary.read(tmp_path / SUMMARY).write(tmp_path / SUMMARY)
    assert json.loads((tmp_path / SUMMARY).read_text()) == {"schema_version": 1, **json.loads(OLD)}


def test_what_nobody_has_set_is_not_written(tmp_path: Path) -> None:
    failed = RunSummary(outcome="failed", reason="no node", epsilon=None, views=None)
    failed.model_copy(update={"seed": 0}).write(tmp_path / SUMMARY)
    assert json.loads((tmp_path / SUMMARY).read_text()) == {
        "schema_version": 1, "outcome": "failed", "reason": "no node", "seed": 0
    }  # fmt: skip


@pytest.mark.parametrize("read", [read_summary, status_of])
def test_a_newer_summary_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / SUMMARY).write_text('{"schema_version": 2, "result": {}}')
    with pytest.raises(NewerFileError, match=r"summary\.json: has schema version 2.* update LUMOS"):
        read(tmp_path)


def test_keys_of_a_newer_minor_version_are_ignored(tmp_path: Path) -> None:
    (tmp_path / SUMMARY).write_text(json.dumps({**json.loads(OLD), "carbon": 3}))
    assert read_summary(tmp_path) is not None


@pytest.mark.parametrize("key", ["reason", "rounds", "best_round", "test"])
def test_a_completed_run_says_what_it_takes_to_go_on(tmp_path: Path, key: str) -> None:
    whole = json.loads(OLD)
    whole.pop(key)
    (tmp_path / SUMMARY).write_text(json.dumps(whole))
    with pytest.raises(DataError, match=rf"key '{key}' is missing; it is damaged: remove it"):
        read_summary(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"is not JSON .*; the file is damaged"),
        ("[]", "found list, expected a JSON object; the file is damaged"),
        ("{}", "key 'outcome' is missing; the file is damaged"),
        ('{"outcome": "unknown"}', "'outcome': found 'unknown', expected 'completed' or 'failed'"),
        ('{"outcome": "failed", "reason": 3}', "key 'reason': found 3, expected text"),
    ],
)
def test_status_names_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / SUMMARY).write_text(text)
    with pytest.raises(DataError, match=message):
        status_of(tmp_path)
