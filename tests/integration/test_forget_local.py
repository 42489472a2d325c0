"""A user is forgotten between two federations of real processes, and does not come back."""

import subprocess
from pathlib import Path

import pytest
from deployment_support import LUMOS, command, write_prepared

from lumos_core.privacy.ledger_file import FORGOTTEN, read_lines

pytestmark = [pytest.mark.integration, pytest.mark.faults]
USER = "u0x3"
SETTINGS = {"method": "lumos", "views": "tfidf", "delta_codec": "int8", "error_feedback": "true"}


def call(argv: list[str], folder: Path) -> str:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def traces(data: Path) -> list[str]:
    files = [path for path in data.rglob("*") if path.is_file()]
    return sorted(path.name for path in files if USER.encode() in path.read_bytes())


def test_after_forgetting_a_federation_leaves_no_trace_of_the_user(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data")
    own = data / "node-0"
    call(command("run", data, tmp_path / "first", rounds=2, **SETTINGS), tmp_path)
    assert traces(data) == ["histories.npz", "interactions.tsv"], "and in no log of a process"
    forget = [*LUMOS, "node", "forget", "--data", str(own), "--user", USER, "--yes"]
    assert "1 user is forgotten; this node has 7 users" in call(forget, tmp_path)
    assert traces(data) == []

    call(command("run", data, tmp_path / "second", rounds=2, **SETTINGS), tmp_path)
    assert traces(tmp_path) == []
    assert (own / "state" / "model" / "final.safetensors").exists()
    kinds = [line["message"] for line in read_lines(own / "state")]
    first, second = kinds[: kinds.index(FORGOTTEN)], kinds[kinds.index(FORGOTTEN) + 1 :]
    assert [part.count("train") for part in (first, second)] == [2, 2]
    told = call([*LUMOS, "node", "ledger", "--data", str(own)], tmp_path)
    assert "sent     4 deltas" in told, "the same configuration is the same run"
    assert "1 user with" in told
