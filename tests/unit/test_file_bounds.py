"""The table of files in docs/operations.md says what the code does."""

import json
import re
from pathlib import Path

import pytest

from client_app import client
from lumos_core.deployment import folders
from lumos_core.deployment.registry import Registry
from lumos_core.federation import error_feedback
from lumos_core.privacy import ledger_file, node_budget
from lumos_core.privacy.secure_aggregation import session_store
from lumos_core.processes import bounded_logs
from lumos_core.views.source import STORE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
MEASURED = ROOT / "benchmarks" / "results" / "oversized_replies.json"
MIB, DAY = 2**20, 24 * 3600


def row(name: str) -> str:
    """The one row of the table whose file is this."""
    table = PAGE[PAGE.index("## Files, and how far they grow") :].split("\n## ")[0]
    [found] = re.findall(rf"^\| [^|]*{re.escape(name)}[^|]*\|.*$", table, re.MULTILINE)
    return str(found)


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("logs of processes", f"{bounded_logs.LIMIT_BYTES / MIB:g} MiB"),
        ("logs of processes", f"every {bounded_logs.LOOK_SECONDS:g} seconds"),
        (client.LOG, f"{client.LOG_BYTES / MIB:g} MiB"),
        (ledger_file.FILE, f"{ledger_file.LIMIT_BYTES / MIB:g} MiB"),
        ("residuals", f"{error_feedback.FORGET_SECONDS / DAY:g} days"),
        (session_store.FOLDER, f"{session_store.FORGET_SECONDS / 3600:g} hours"),
        (node_budget.FILE, f"the last {node_budget.RUNS} runs"),
        (STORE, "once for every writer"),
    ],
)
def test_bounds_are_those_of_the_code(name: str, bound: str) -> None:
    assert bound in row(name)


def test_the_database_has_that_name(tmp_path: Path) -> None:
    folders.create(tmp_path / "new", ["127.0.0.1"], ["north"], 9092, 30)
    kit = folders.ServerKit.read(tmp_path / "new" / "server")
    assert row(f"state/{Registry(kit, tmp_path).database.name}")


def test_the_history_grows_as_was_measured() -> None:
    for found in json.loads(MEASURED.read_text())["history"]:
        assert f"{found['bytes_a_round']:.0f} bytes" in row("history.jsonl")
