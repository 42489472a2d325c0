"""A process that is killed while the language model writes loses nothing that is stored."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_llm import save_tiny_llm

pytestmark = pytest.mark.integration

USERS, ITEMS = 320, 40
COMMAND = [sys.executable, "-c", "from lumos_core.cli.app import main; main()", "views", "build"]


def write_node(folder: Path) -> Path:
    folder.mkdir()
    items = "".join(f"i{n}\tthing {n}\n" for n in range(ITEMS))
    (folder / "catalog.tsv").write_text("item_id\ttitle\n" + items)
    drawn = np.random.default_rng(0).integers(0, ITEMS, (USERS, 10))
    rows = [f"u{u}\ti{item}\t{t}\n" for u, row in enumerate(drawn) for t, item in enumerate(row)]
    (folder / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + "".join(rows))
    return folder


def stored(path: Path) -> set[tuple[bytes, ...]]:
    """Every row of a view store; none while it is being made."""
    if not path.exists():
        return set()
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as db:
            return set(db.execute("SELECT * FROM views"))
    except sqlite3.OperationalError:
        return set()


def test_a_killed_build_is_gone_on_with(tmp_path: Path) -> None:
    node = write_node(tmp_path / "node")
    model = save_tiny_llm(tmp_path / "model")
    environment = {**os.environ, "LUMOS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, str(node), "--llm", str(model)]
    store = node / "state" / "views.sqlite"

    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as first:
        until = time.monotonic() + 120
        while len(stored(store)) < 32 and first.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        _, errors = first.communicate(timeout=30)
    assert first.returncode == -signal.SIGKILL, errors
    kept = stored(store)
    assert 32 <= len(kept) < USERS, "not killed while it wrote"

    second = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=150, check=True
    )
    written, there = map(
        int, re.search(r"(\d+) views written, (\d+) were there", second.stdout).groups()
    )
    assert there == len(kept)
    assert written == USERS - len(kept)
    assert kept < stored(store)
    assert len(stored(store)) == USERS
