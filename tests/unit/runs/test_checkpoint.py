"""Checkpoints: exact, whole or absent, and errors for everything that is not one."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from lumos_core import safe_files
from lumos_core.config import RunConfig
from lumos_core.errors import ModelError, NewerFileError
from lumos_core.runs.checkpoint import Checkpoint, RunProgress, load_checkpoint, save_checkpoint


def _checkpoint(round_: int = 3) -> Checkpoint:
    rng = np.random.default_rng(round_)
    params = {
        "items.weight": rng.normal(size=(5, 4)).astype("f4"),
        "a": rng.normal(size=3).astype("f4").T,
        "empty": np.zeros((0, 4), "f4"),
    }
    params["items.weight"][0, 0] = np.float32(1e-45)  # subnormal: must survive, too
    optimizer = {"m:a": rng.normal(size=3).astype("f4"), "model/x": np.ones(1, "f4")}
    progress = RunProgress(round_, 2, 0.1 + 0.2, 1, "c" * 64, "s" * 64, RunConfig().to_flat())
    return Checkpoint(params, optimizer, progress)


def _assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.progress == expected.progress
    for ours, theirs in (
        (found.params, expected.params), (found.optimizer, expected.optimizer)
    ):  # fmt: skip
        assert set(ours) == set(theirs)
        for name, array in ours.items():
            assert array.dtype == np.float32
            assert array.shape == theirs[name].shape
            assert array.tobytes() == theirs[name].tobytes()


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint" / "latest.safetensors"
    save_checkpoint(path, _checkpoint())
    _assert_equal(load_checkpoint(path), _checkpoint())


def test_arrays_that_are_views_are_saved_as_they_look(tmp_path: Path) -> None:
    checkpoint = _checkpoint()
    base = np.arange(12, dtype="f4").reshape(3, 4)
    views = {"t": base.T, "step": base[:, ::2], "back": base[::-1]}
    save_checkpoint(tmp_path / "c", replace(checkpoint, params=views))
    found = load_checkpoint(tmp_path / "c").params
    assert all(np.array_equal(found[n], views[n]) for n in views)


def test_a_crash_while_writing_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "latest.safetensors"
    save_checkpoint(path, _checkpoint(3))

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(safe_files.os, step, crash)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(path, _checkpoint(4))
        _assert_equal(load_checkpoint(path), _checkpoint(3))
    assert [p.name for p in tmp_path.iterdir()] == ["latest.safetensors"]


def test_no_checkpoint_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"missing\.safetensors: no checkpoint here"):
        load_checkpoint(tmp_path / "missing.safetensors")


Spoil = Callable[[bytes], bytes]


def _other_metadata(change: Callable[[dict[str, object]], object]) -> Spoil:
    def spoil(_: bytes) -> bytes:
        progress = asdict(_checkpoint().progress)
        change(progress)
        return save({"model/a": np.zeros(2, "f4")}, {"progress": json.dumps(progress)})

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: b"",
        lambda whole: b"garbage",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: whole[100:],
        lambda whole: b"\xff" * 8 + whole[8:],
        lambda whole: save({"model/a": np.zeros(2, "f4")}),
        lambda whole: save({"model/a": np.zeros(2, "f4")}, {"progress": "{"}),
        lambda whole: save({"model/a": np.zeros(2, "f4")}, {"progress": "[1, 2]"}),
        lambda whole: save({"model/a": np.zeros(2, "f4")}, {"progress": "null"}),
        _other_metadata(lambda p: p.pop("round")),
        _other_metadata(lambda p: p.update(extra=1)),
        _other_metadata(lambda p: p.update(round="3")),
        _other_metadata(lambda p: p.update(best_ndcg=None)),
        _other_metadata(lambda p: p.update(config=[])),
        _other_metadata(lambda p: p.update(catalog=7)),
        _other_metadata(lambda p: p.update(schema_version="new")),
        _other_metadata(lambda p: p.update(schema_version=None)),
    ],
    ids=lambda f: "",
)
def test_garbage_is_refused(tmp_path: Path, spoil: Spoil) -> None:
    path = tmp_path / "latest.safetensors"
    save_checkpoint(path, _checkpoint())
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ModelError, match=r"latest\.safetensors: not a readable LUMOS checkpoint"):
        load_checkpoint(path)


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a readable LUMOS checkpoint"):
        load_checkpoint(tmp_path)


def test_progress_after_evaluations() -> None:
    start = RunProgress(0, -1, 0.0, 0, "", "", {})
    first = start.after_evaluation(0, 0.0)
    assert (first.best_round, first.best_ndcg, first.evaluations_since_best) == (0, 0.0, 0)
    worse = first.after_evaluation(1, 0.0)  # equal is not better: the earlier model stays
    assert (worse.best_round, worse.evaluations_since_best) == (0, 1)
    worse = worse.after_evaluation(2, -1.0)
    assert worse.evaluations_since_best == 2
    better = worse.after_evaluation(5, 0.1)
    assert (better.best_round, better.best_ndcg, better.evaluations_since_best) == (5, 0.1, 0)


OLD = (
    '{"round": 3, "best_round": 2, "best_ndcg": 0.30000000000000004, "evaluations_since_best": 1, '
    '"catalog": "2:c", "shape": "s", "config": {"method": "fedavg", "seed": 3, "dp-clip": 1.0, '
    '"secure-aggregation": false}}'
)
"""Metadata as they were written before there were schema versions."""


def test_metadata_of_before_there_were_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "latest.safetensors"
    path.write_bytes(save({"model/a": np.zeros(2, "f4")}, {"progress": OLD}))
    config = {"method": "fedavg", "seed": 3, "dp-clip": 1.0, "secure-aggregation": False}
    found = load_checkpoint(path)
    assert found.progress == RunProgress(3, 2, 0.1 + 0.2, 1, "2:c", "s", config)
    assert [type(value) for value in found.progress.config.values()] == [str, int, float, bool]
    save_checkpoint(path, found)
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"progress": OLD}, "an older LUMOS goes on with it"


def test_metadata_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latest.safetensors"
    progress = json.dumps({"schema_version": 3, "rounds": [3]})
    path.write_bytes(save({"model/a": np.zeros(2, "f4")}, {"progress": progress}))
    with pytest.raises(NewerFileError, match=r"latest\.safetensors: has schema version 3"):
        load_checkpoint(path)


def test_the_same_checkpoint_is_the_same_bytes(tmp_path: Path) -> None:
    for number in range(8):
        save_checkpoint(tmp_path / str(number), _checkpoint())
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_the_weight_of_titles_is_kept(tmp_path: Path) -> None:
    plain = _checkpoint()
    weighted = replace(plain, progress=replace(plain.progress, title_weight=0.2))
    save_checkpoint(tmp_path / "c", weighted)
    assert load_checkpoint(tmp_path / "c").progress.title_weight == 0.2
    save_checkpoint(tmp_path / "plain", plain)
    with safe_open(tmp_path / "plain", framework="numpy") as file:
        written = json.loads(file.metadata()["progress"])
    assert "title_weight" not in written, "LUMOS 0.1 resumes runs that do not use it"
    assert "schema_version" not in written


def test_the_weight_is_that_of_the_best_evaluation() -> None:
    progress = replace(_checkpoint().progress, best_round=-1)
    progress = progress.after_evaluation(0, 0.1, 0.4)
    assert progress.title_weight == 0.4
    assert progress.after_evaluation(1, 0.05, 0.8).title_weight == 0.4
    assert progress.after_evaluation(1, 0.2, 0.0).title_weight == 0.0
