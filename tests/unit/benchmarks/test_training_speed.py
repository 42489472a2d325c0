"""The benchmark of centralised training: what it trains on, and what it writes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.data import Sequences
from lumos_core.learning.model import get_params, new_model


@pytest.fixture
def speed(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("training_speed")


def test_a_refit_trains_on_validation_items_and_not_on_test_items(
    speed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Sequences] = []
    build = speed.TrainingSet.build

    def noted(histories: Sequences, max_len: int) -> Any:
        trained.append(histories)
        return build(histories, max_len)

    monkeypatch.setattr(speed.TrainingSet, "build", noted)
    users = Sequences.from_lists([[1, 2, 3, 4], [5, 6, 7, 8, 9]])
    config = RunConfig(method="fedavg", dim=8, layers=1, heads=1)
    start = get_params(new_model(config, 9))
    found = speed.refit(config, users, start, epochs=2)
    (histories,) = trained
    assert [row.tolist() for row in histories] == [[1, 2, 3], [5, 6, 7, 8]]
    assert found["epochs"] == 2
    assert found["test"].keys() >= {"hr@10", "ndcg@10"}


def test_it_writes_what_it_measured(
    speed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["user_id\titem_id\ttimestamp"]
    rng = np.random.default_rng(0)
    lines += [f"u{u}\ti{i}\t{t}" for u in range(40) for t, i in enumerate(rng.permutation(12)[:7])]
    (tmp_path / "log.tsv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "found.json"
    command = f"x {tmp_path / 'log.tsv'} --timed-epochs 1 --max-epochs 2 --refit --out {out}"
    small = ["-c", "dim=8", "-c", "layers=1", "-c", "heads=1"]
    monkeypatch.setattr(sys, "argv", [*command.split(), *small])
    speed.main()
    found = json.loads(out.read_text())
    assert found["users"] == 40
    assert found["refit"]["epochs"] == found["centralised"]["best_epoch"]
    assert 0 < found["refit"]["cpu_seconds"] < found["cpu_seconds"] + 60
