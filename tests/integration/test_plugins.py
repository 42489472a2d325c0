"""A package that adds one part of every kind, installed as any other, over real processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.integration

PACKAGE = Path(__file__).parents[1] / "plugin_package"
PARTS = {
    "encoder": "gru", "views": "popular", "aggregation": "midpoint", "delta-codec": "sign",
    "semantic-start": "none",
}  # fmt: skip
SMALL = {"dim": 8, "layers": 1, "batch-size": 8, "local-epochs": 1}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of programs that have the package."""
    folder = tmp_path_factory.mktemp("plugin")
    source, target = folder / "source", folder / "site"
    shutil.copytree(PACKAGE, source)  # building writes beside the sources
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
               "--no-build-isolation", "--target", str(target), str(source)]  # fmt: skip
    subprocess.run(command, check=True)
    path = os.pathsep.join(filter(None, (str(target), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def data(installed: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two nodes, made of a file that only the package can read."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = [f"u{n}: " + " ".join(f"i{i}" for i in rng.permutation(12)[:8]) for n in range(24)]
    (folder / "shop.baskets").write_text("\n".join(lines), encoding="utf-8")
    done = lumos(
        installed, "prepare", folder / "shop.baskets", "--format", "baskets", "--nodes", 2,
        "--out", folder / "data", "--k-core", 0,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "data"


def lumos(environment: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lumos_core", *map(str, words)],
        env={**environment, "COLUMNS": "200"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def settings(keys: dict[str, object]) -> list[str]:
    return [text for key, value in keys.items() for text in ("-c", f"{key}={value}")]


def test_all_five_in_a_real_federation(
    installed: dict[str, str], data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = lumos(
        installed, "run", "--data", data, "--run-dir", run, "--rounds", 2,
        *settings({**PARTS, **SMALL}),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["outcome"], summary["rounds"]) == ("completed", 2)
    rounds = [
        event
        for event in map(json.loads, (run / "history.jsonl").read_text().splitlines())
        if event["event"] == "round"
    ]
    assert [event["nodes_ok"] for event in rounds] == [2, 2]
    assert not any(event.get("views_lacking") for event in rounds)
    weights = 13 * 8 + 2 * (3 * 8 * 8 + 3 * 8)  # item table and one GRU layer
    sizes = 4 * 5  # of five arrays
    assert rounds[0]["bytes_up"] // 2 == pytest.approx(weights + sizes, abs=200)
    shown = lumos(installed, "recommend", "--data", data / "node-0", "--user", "u0", "--top", 3)
    assert shown.returncode in (0, 2), shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"encoder": "broken"}, "'lumos_example.encoder:missing' of lumos-example cannot be"),
        ({"encoder": "lstm"}, "but input should be 'sasrec', 'broken' or 'gru'"),
        (
            {"secure-aggregation": "true", "min-nodes": 3, "min-replies": 3},
            "= mean, found midpoint",
        ),
        ({"dp": "user", "weighting": "users"}, "encoder = sasrec"),
    ],
)
def test_what_does_not_work_is_told_before_anything_starts(
    installed: dict[str, str], data: Path, tmp_path: Path, keys: dict[str, object], told: str
) -> None:
    done = lumos(
        installed, "run", "--data", data, "--run-dir", tmp_path / "run", "--rounds", 1,
        *settings({**PARTS, **SMALL, **keys}),
    )  # fmt: skip
    assert done.returncode != 0
    assert told in " ".join((done.stdout + done.stderr).split())
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_without_the_package_its_names_are_unknown(data: Path, tmp_path: Path) -> None:
    done = lumos(
        dict(os.environ), "run", "--data", data, "--run-dir", tmp_path / "run",
        *settings({"delta-codec": "sign"}),
    )  # fmt: skip
    assert done.returncode != 0
    assert "key 'delta-codec': found 'sign'" in " ".join((done.stdout + done.stderr).split())
