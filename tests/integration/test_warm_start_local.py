"""A run of real processes that starts from the model of another."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from deployment_support import TINY, command, write_prepared

from lumos_core import RunConfig, simulate
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.recommend.model_files import read_card, read_model
from lumos_core.runs.checkpoint import BEST
from lumos_core.runs.history import read_history

pytestmark = pytest.mark.integration


def evaluation(run: Path, of_round: int) -> dict[str, Any]:
    """The metrics of a round's model on the validation targets."""
    for event in read_history(run / "history.jsonl"):
        if (event["event"], event.get("split"), event["round"]) == (
            "evaluation", "validation", of_round,
        ):  # fmt: skip
            return {key: value for key, value in event.items() if "@" in key}
    raise AssertionError(f"round {of_round} was not evaluated")


def test_a_second_run_goes_on_with_the_model_of_the_first(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data")
    first, second = tmp_path / "first", tmp_path / "second"

    def run(words: list[str]) -> str:
        done = subprocess.run(
            words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    catalog, shops = load_prepared(data)
    flat = {**TINY, "rounds": "2"}
    simulate(RunConfig.from_flat(flat), catalog, shops, run_dir=first)  # quicker than processes
    best = read_model(first / BEST)[1].round
    said = run([*command("run", data, second, 1), "--from", str(first)])
    assert f"starts from the model of a run ({first}, round {best}, " in said
    assert evaluation(second, 0) == evaluation(first, best)
    kept = data / "node-0" / "state" / "model" / "final.safetensors"
    assert read_card(kept).config["start-model"] != ""
    shutil.rmtree(first)
    run([*command("run", data, second, 2), "--resume"])
    summary = json.loads((second / "summary.json").read_text())
    assert (summary["outcome"], summary["rounds"]) == ("completed", 2)
    events = [event["event"] for event in read_history(second / "history.jsonl")]
    assert events.count("warm-start") == 1
