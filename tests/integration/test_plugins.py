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
SMALL = {"dim": 32, "layers": 1, "batch-size": 8, "local-epochs": 1}


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
    assert all(event["bytes_up"] < event["bytes_down"] / 2 for event in rounds), "int8"
    users = (data / "node-0" / "interactions.tsv").read_text().splitlines()
    user = users[1].partition("\t")[0]
    shown = lumos(installed, "recommend", "--data", data / "node-0", "--user", user, "--top", 3)
    assert shown.returncode == 0, "the node kept the encoder's model: " + shown.stdout


def test_what_does_not_work_is_told_before_anything_starts(
    installed: dict[str, str], data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = lumos(installed, "run", "--data", data, "--run-dir", run, "-c", "encoder=broken")
    assert done.returncode != 0
    told = " ".join((done.stdout + done.stderr).split())
    assert "encoder 'broken': 'lumos_example.encoder:missing' of lumos-example cannot be" in told
    assert not run.exists()


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"encoder": "lstm"}, "but input should be 'sasrec', 'ligr', 'bag', 'broken' or 'gru'"),
    (
        {"secure-aggregation": True, "min-nodes": 3, "min-replies": 3, "aggregation": "midpoint"},
        "secure-aggregation = true needs aggregation = mean, found midpoint",
    ),
    (
        {"item-bias": "learned", "encoder": "gru"},
        "item-bias = learned needs encoder = sasrec or ligr or",
    ),
    ({"dp": "user", "encoder": "gru"}, "encoder = sasrec or ligr or bag only, found gru"),
]


def test_configurations_know_what_plugins_can_do(installed: dict[str, str]) -> None:
    code = (
        "import sys, json\nfrom lumos_core.config import RunConfig\n"
        "from lumos_core.errors import ConfigError\n"
        "for keys in json.loads(sys.argv[1]):\n"
        "    try: RunConfig.from_flat(keys); print('fine')\n"
        "    except ConfigError as error: print(error)\n"
    )
    asked = json.dumps([keys for keys, _ in REFUSED] + [PARTS])
    command = [sys.executable, "-c", code, asked]
    done = subprocess.run(command, env=installed, capture_output=True, text=True, check=True)
    *told, last = done.stdout.splitlines()
    for (_, expected), found in zip(REFUSED, told, strict=True):
        assert expected in found
    assert last == "fine"
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "found 'gru'" in done.stdout.splitlines()[-1], "no such name elsewhere"
