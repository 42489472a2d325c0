"""Model files: exact, self-describing, refused where they do not fit."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lumos_core.config import RunConfig
from lumos_core.data import Catalog
from lumos_core.errors import DataError, ModelError
from lumos_core.learning.model import get_params, new_model
from lumos_core.learning.parameters import ModelShape, Params
from lumos_core.recommend.export import export_model
from lumos_core.recommend.model_files import (
    KEPT_FINAL,
    KEPT_LATEST,
    ModelCard,
    kept_model,
    load_model,
    read_card,
    save_model,
)
from lumos_core.runs.checkpoint import (
    BEST,
    LATEST,
    Checkpoint,
    RunProgress,
    load_checkpoint,
    save_checkpoint,
)

OTHER = Catalog(("x", "y"), ("ex", "why"))


@pytest.fixture
def params(tiny, toy_catalog) -> Params:
    return get_params(new_model(tiny(), len(toy_catalog)))


@pytest.fixture
def card(tiny, toy_catalog) -> ModelCard:
    return ModelCard.of(tiny(), len(toy_catalog), toy_catalog.fingerprint, 7, final=False)


@pytest.fixture
def run_dir(tmp_path: Path, tiny, toy_catalog, params) -> Path:
    """A finished run of 3 rounds whose second was best; its last model is another one."""
    config: RunConfig = tiny(catalog="/home/somebody/catalog.tsv", run_dir="/home/somebody/run")
    shape = ModelShape.of(config, len(toy_catalog)).fingerprint
    progress = RunProgress(3, 2, 0.5, 1, toy_catalog.fingerprint, shape, config.to_flat())
    folder = tmp_path / "run"
    save_checkpoint(folder / BEST, Checkpoint(params, {}, progress))
    last = {n: a + 1 for n, a in params.items()}
    save_checkpoint(folder / LATEST, Checkpoint(last, {"m:norm.bias": np.ones(8)}, progress))
    summary = {
        "outcome": "completed", "best_round": 2, "validation": {"ndcg@20": 0.5},
        "test": {"ndcg@20": 0.4}, "versions": {"torch": "2"},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def same(model: Any, params: Params) -> bool:
    found = get_params(model)
    return found.keys() == params.keys() and all(
        found[n].tobytes() == a.tobytes() for n, a in params.items()
    )


def test_a_run_is_exported_and_loaded_again(tmp_path, run_dir, params, toy_catalog) -> None:
    export_model(run_dir, tmp_path / "out")
    model = load_model(tmp_path / "out", toy_catalog)
    assert same(model, params)
    assert not model.training
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["shape"] == {"num_items": 24, "dim": 8, "layers": 1, "heads": 2, "max_len": 10}
    assert (config["round"], config["final"], config["test"]) == (2, True, {"ndcg@20": 0.4})
    assert config["catalog"] == toy_catalog.fingerprint
    assert {"lumos", "torch"} <= config["versions"].keys()
    whole = b"".join(p.read_bytes() for p in (tmp_path / "out").iterdir())
    assert b"somebody" not in whole  # paths of the server stay on it


def test_metrics_of_another_part_of_the_run_are_left_out(tmp_path, run_dir) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    (run_dir / "summary.json").write_text(json.dumps({**summary, "best_round": 1}))
    card = export_model(run_dir, tmp_path / "out")
    assert (card.final, card.test, card.validation) == (False, {}, {})


def test_a_summary_that_cannot_be_used_is_named(tmp_path, run_dir) -> None:
    path = run_dir / "summary.json"
    whole = json.loads(path.read_text())
    newer = {"schema_version": 2, **whole}
    without = {key: value for key, value in whole.items() if key != "test"}
    for damaged, message in (
        (newer, "has schema version 2, .* update LUMOS on this machine"),
        (without, "key 'test' is missing; .* move it away to export without metrics"),
        ({**whole, "test": 3}, "key 'test': found 3, .* move it away"),
    ):
        path.write_text(json.dumps(damaged))
        with pytest.raises(DataError, match=message):
            export_model(run_dir, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    path.unlink()
    assert export_model(run_dir, tmp_path / "out").test == {}


def test_any_place_with_a_model_will_do(run_dir, params, toy_catalog) -> None:
    assert same(load_model(run_dir, toy_catalog), params)
    last = load_model(run_dir / LATEST, toy_catalog)
    assert same(last, {n: a + 1 for n, a in params.items()})


def test_export_does_not_overwrite(tmp_path, run_dir) -> None:
    out = tmp_path / "out"
    export_model(run_dir, out)
    with pytest.raises(DataError, match="--force to replace"):
        export_model(run_dir, out)
    export_model(run_dir, out, force=True)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").touch()
    with pytest.raises(DataError, match=r"not empty \(found a\.jpg\)"):
        export_model(run_dir, other, force=True)
    with pytest.raises(DataError, match="found a file"):
        export_model(run_dir, other / "a.jpg")


def test_before_the_first_evaluation_there_is_nothing_to_export(tmp_path, run_dir, params) -> None:
    fresh = load_checkpoint(run_dir / BEST)
    fresh = replace(fresh, progress=replace(fresh.progress, round=0, best_round=-1))
    save_checkpoint(run_dir / BEST, fresh)
    with pytest.raises(ModelError, match="no round has been evaluated"):
        export_model(run_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"epochs": 3}}, "made by another version of LUMOS"),
        ({"shape": "0" * 64}, r"not those of its shape \(fingerprint 000000000000…"),
    ],
)
def test_a_checkpoint_that_does_not_describe_itself_is_refused(
    run_dir, toy_catalog, change: dict[str, Any], message: str
) -> None:
    saved = load_checkpoint(run_dir / BEST)
    save_checkpoint(run_dir / BEST, replace(saved, progress=replace(saved.progress, **change)))
    with pytest.raises(ModelError, match=message):
        load_model(run_dir, toy_catalog)


def test_a_model_of_another_catalog_is_refused(tmp_path, params, card) -> None:
    save_model(tmp_path / "model.safetensors", params, card)
    with pytest.raises(ModelError, match="made for another catalog"):
        load_model(tmp_path, OTHER)
    later = card.model_copy(update={"catalog": "3:" + "0" * 64})
    save_model(tmp_path / "model.safetensors", params, later)
    with pytest.raises(ModelError, match=r"2:ea5dff1a9740…\) has not grown.*versions 3 and 2"):
        load_model(tmp_path, OTHER)


def test_a_model_of_before_fingerprints_had_versions_is_loaded(
    tmp_path, params, card, toy_catalog
) -> None:
    toy_catalog.write(tmp_path / "catalog.tsv")
    rows = (tmp_path / "catalog.tsv").read_bytes().partition(b"\n")[2]
    old = card.model_copy(update={"catalog": hashlib.sha256(rows).hexdigest()})
    save_model(tmp_path / KEPT_LATEST, params, old)
    assert kept_model(tmp_path, toy_catalog) == tmp_path / KEPT_LATEST
    load_model(tmp_path / KEPT_LATEST, toy_catalog)
    with pytest.raises(ModelError, match=r"versions 1 and 2"):
        load_model(tmp_path / KEPT_LATEST, OTHER)


Change = Callable[[Params, dict[str, Any]], object]
DAMAGES: dict[str, tuple[Change, str]] = {
    "items": (lambda p, c: p.update({"items.weight": p["items.weight"][1:]}), "'items.weight'"),
    "positions": (lambda p, c: c["shape"].update(max_len=9), "'positions.weight'"),
    "number of items": (lambda p, c: c["shape"].update(num_items=23), "says 23 items"),
    "layers": (lambda p, c: c["shape"].update(layers=2), "do not fit the model"),
    "missing array": (lambda p, c: p.pop("norm.bias"), "do not fit the model"),
    "heads": (lambda p, c: c["shape"].update(heads=3), "not a multiple of heads"),
    "nan": (lambda p, c: p.update({"norm.bias": p["norm.bias"] * np.nan}), "NaN or infinity"),
    "no card": (lambda p, c: c.clear(), "not a readable LUMOS model"),
    "later format": (lambda p, c: c.update(format="lumos-sasrec-9"), "another version"),
    "no sizes": (lambda p, c: c["shape"].update(dim=0), "not a readable LUMOS model"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_what_does_not_fit_is_refused(
    tmp_path, params, card, toy_catalog, change: Change, message: str
) -> None:
    says = card.model_dump()
    change(params, says)
    metadata = {"lumos": json.dumps(says)} if says else None
    save_file(params, tmp_path / "model.safetensors", metadata)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path, toy_catalog)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64])
def test_garbage_is_no_model(tmp_path, toy_catalog, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not a readable LUMOS model"):
        load_model(tmp_path, toy_catalog)


def test_config_and_weights_must_belong_together(tmp_path, run_dir, toy_catalog) -> None:
    out = tmp_path / "out"
    export_model(run_dir, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "round": 1}))
    with pytest.raises(ModelError, match=r"not the configuration of model\.safetensors"):
        load_model(out, toy_catalog)


def test_a_node_prefers_the_final_model_of_its_catalog(tmp_path, params, card, toy_catalog) -> None:
    with pytest.raises(ModelError, match="not kept a model yet"):
        kept_model(tmp_path, toy_catalog)
    save_model(tmp_path / KEPT_LATEST, params, card)
    assert kept_model(tmp_path, toy_catalog) == tmp_path / KEPT_LATEST
    save_model(tmp_path / KEPT_FINAL, params, card.model_copy(update={"final": True}))
    assert kept_model(tmp_path, toy_catalog) == tmp_path / KEPT_FINAL
    old = card.model_copy(update={"catalog": "0" * 64})
    save_model(tmp_path / KEPT_FINAL, params, old)
    assert kept_model(tmp_path, toy_catalog) == tmp_path / KEPT_LATEST
    assert read_card(tmp_path / KEPT_LATEST).round == 7
