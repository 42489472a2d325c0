"""An ONNX graph ranks as the model does, and is not written if it does not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.config import RunConfig
from lumos_core.data import Catalog
from lumos_core.errors import ModelError
from lumos_core.learning.model import get_params, new_model
from lumos_core.learning.title_nearness import TitleNearness
from lumos_core.recommend.model_files import (
    MODEL_FILE,
    ModelCard,
    load_with_card,
    save_model,
)
from lumos_core.recommend.recommender import Recommender

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

from lumos_core.recommend import onnx_export  # noqa: E402
from lumos_core.recommend.onnx_export import Scores, write_onnx  # noqa: E402

Tiny = Callable[..., RunConfig]


@pytest.fixture
def saved(tmp_path: Path, toy_catalog: Catalog) -> Callable[..., Path]:
    """``saved(config, weight)``: a model file of random parameters."""

    def make(config: RunConfig, weight: float) -> Path:
        model = new_model(config, len(toy_catalog))
        params = get_params(model)
        rng = np.random.default_rng(3)
        params = {n: a + rng.normal(0, 0.3, a.shape).astype(np.float32) for n, a in params.items()}
        params["items.weight"][0] = 0
        card = ModelCard.of(config, len(toy_catalog), toy_catalog.fingerprint, 3, True, weight)
        save_model(tmp_path / "model" / MODEL_FILE, params, card)
        return tmp_path / "model"

    return make


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("changes", [{}, {"encoder": "ligr", "item_bias": "learned"},
                                     {"encoder": "bag"}])  # fmt: skip
def test_random_histories_are_ranked_alike(
    tmp_path: Path, tiny: Tiny, toy_catalog: Catalog, saved: Any, weight: float, changes: Any
) -> None:
    import onnxruntime

    place, path = saved(tiny(**changes), weight), tmp_path / "model.onnx"
    model, card = load_with_card(place, toy_catalog)
    assert write_onnx(path, model, card, toy_catalog) < 1e-4
    session = onnxruntime.InferenceSession(path)
    known = session.get_modelmeta().custom_metadata_map["lumos"]
    assert ModelCard.model_validate_json(known) == card
    recommender = Recommender(model, toy_catalog, top=len(toy_catalog))
    rng = np.random.default_rng(1)
    for _ in range(20):
        lengths = rng.integers(1, model.shape.max_len + 1, 3)
        items = np.zeros((3, lengths.max()), dtype=np.int64)
        for row, length in enumerate(lengths):
            items[row, :length] = rng.integers(1, len(toy_catalog) + 1, length)
        [scores] = session.run(["scores"], {"items": items})
        for row, length in enumerate(lengths):
            history = items[row, :length]
            scores[row, history - 1] = -np.inf
            ranked = recommender.for_user(history)
            found = np.argsort(-scores[row], kind="stable")[: len(ranked)] + 1
            gaps = -np.diff([r.score for r in ranked], append=-np.inf)
            expected = [toy_catalog.index(r.item_id) for r in ranked]
            assert gaps.min() < 1e-5 or found.tolist() == expected
            np.testing.assert_allclose(
                scores[row, np.array(expected, dtype=int) - 1], [r.score for r in ranked], atol=1e-4
            )


def test_titles_of_a_history_count_as_in_the_recommender(tiny: Tiny, toy_catalog: Catalog) -> None:
    model, titles = new_model(tiny(), len(toy_catalog)).eval(), TitleNearness.of(toy_catalog)
    items = torch.tensor([[3, 9, 1, 9], [5, 0, 0, 0]])
    found = Scores(model, titles, 0.5)._near(items, torch.tensor([4, 1]))
    expected = titles.near([np.array([3, 9, 1, 9]), np.array([5])])
    torch.testing.assert_close(found, expected)


def test_a_graph_that_ranks_in_another_way_is_not_written(
    tmp_path: Path, tiny: Tiny, toy_catalog: Catalog, saved: Any, monkeypatch
) -> None:
    model, card = load_with_card(saved(tiny(), 0.0), toy_catalog)
    real = onnx_export._graph

    def of_another_model(path: Path, scores: Scores, *rest: Any) -> bytes:
        with torch.no_grad():
            scores.model.items.weight[1:] += 1
            graph = real(path, scores, *rest)
            scores.model.items.weight[1:] -= 1
        return graph

    monkeypatch.setattr(onnx_export, "_graph", of_another_model)
    with pytest.raises(ModelError, match="not written: its scores would differ"):
        write_onnx(tmp_path / "model.onnx", model, card, toy_catalog)
    assert not (tmp_path / "model.onnx").exists()


def test_an_encoder_that_cannot_be_exported_is_named(
    tmp_path: Path, tiny: Tiny, toy_catalog: Catalog, saved: Any, monkeypatch
) -> None:
    model, card = load_with_card(saved(tiny(), 0.0), toy_catalog)
    monkeypatch.setattr(model, "forward", lambda items: torch.ones(len(items.tolist())))
    with pytest.raises(ModelError, match="cannot export this encoder"):
        write_onnx(tmp_path / "model.onnx", model, card, toy_catalog)


def test_the_command_writes_it_beside_the_model(
    tmp_path: Path, tiny: Tiny, toy_catalog: Catalog, saved: Any
) -> None:
    place, out, catalog = saved(tiny(), 0.5), tmp_path / "out", tmp_path / "catalog.tsv"
    toy_catalog.write(catalog)
    other = Catalog(("x",), ("ex",))
    other.write(tmp_path / "other.tsv")

    def export(*options: str) -> Any:
        return CliRunner().invoke(app, ["export", str(place), str(out), *options])

    refused = export("--onnx", str(tmp_path / "other.tsv"))
    assert "was made for another catalog" in str(refused.exception)
    assert not out.exists()
    done = export("--onnx", str(catalog))
    assert done.exit_code == 0, done.exception
    assert "compared with the model on random histories" in done.output
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.onnx", MODEL_FILE]
    assert json.loads((out / "config.json").read_text())["title_weight"] == 0.5
    assert export("--force").exit_code == 0
    assert not (out / "model.onnx").exists(), "it would be of the model before"
