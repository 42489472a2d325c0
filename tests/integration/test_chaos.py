"""A short chaos run (``make chaos``): wrong replies, a ClientApp that dies, a link that is cut."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from namespaces import require_namespaces

pytestmark = [pytest.mark.integration, pytest.mark.faults]

ROOT = Path(__file__).parents[2]
FAULTS = ["hostile", "kill-clientapp", "link-node"]


@pytest.mark.timeout(900)
def test_a_federation_survives_and_ends_with_the_right_model(tmp_path: Path) -> None:
    require_namespaces()
    out = tmp_path / "chaos.json"
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "support")))
    done = subprocess.run(
        [sys.executable, ROOT / "tests/chaos/chaos.py", "--times", "1", "--limit", "120",
         "--faults", ",".join(FAULTS), "--out", out],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, timeout=880, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    found = json.loads(out.read_text())
    assert [row["fault"] for row in found["faults"]] == FAULTS
    assert found["end"]["outcome"] == "completed"
    assert found["end"]["processes left"] == []
    assert found["replay"]["equal"]
    assert found["replay"]["finite"]
    assert found["memory"]["MiB at most, together"] > 0
