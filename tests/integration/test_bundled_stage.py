"""The shipped stage of the bundled catalog: that it is due for nothing, undamaged, and true."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sample import bundled_sample, is_bundled
from lumos_core.views.llm import prompts
from lumos_core.views.llm.find import LLMConfig, model_fingerprint
from lumos_core.views.llm.load import LocalLLM, load_llm
from lumos_core.views.titles.embeddings import (
    embeddings_path,
    read_titles,
    stored_or_new_embeddings,
)
from lumos_core.views.titles.judgements import (
    CatalogTables,
    ListPrompt,
    catalog_tables,
    priors_path,
    title_tokens,
)
from lumos_core.views.titles.resumable import StageProgress, Work
from lumos_core.views.titles.shipped import DIGEST, STAGE, seed_cache
from lumos_core.views.writers.by_likelihood import LLMViewWriter
from lumos_core.views.writers.view_settings import ViewSettings

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from bundled_stage import bundled_catalog

pytestmark = pytest.mark.integration

PRIOR_TOLERANCE = 1.0
"""Nats of a title's log-likelihood (5 tokens, about -25 nats): sums over tokens whose bfloat16
logits of magnitude 10 to 20 are rounded to 1/16 or 1/8. Another model or prompt is off by ten."""
SAME_ITEMS = 0.95


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return bundled_catalog()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    assert seed_cache(folder)
    return folder


@pytest.fixture(scope="module")
def llm(cache: Path) -> LocalLLM:
    return load_llm(LLMConfig(cache_dir=cache, threads=1))


def test_the_names_are_those_that_this_version_looks_for(catalog: Catalog, cache: Path) -> None:
    """If this fails: python benchmarks/bundled_stage.py."""
    assert is_bundled(catalog)
    model = model_fingerprint(LLMConfig(cache_dir=cache))
    assert embeddings_path(model, catalog, cache).exists()
    assert priors_path(model, catalog, RunConfig().llm_noun, cache).exists()


def test_no_model_is_needed_for_the_start(
    catalog: Catalog, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> LocalLLM:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("lumos_core.views.titles.embeddings.load_llm", refuse)
    vectors = stored_or_new_embeddings(LLMConfig(cache_dir=cache), catalog)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3)


def test_a_damaged_file_is_not_used(tmp_path: Path) -> None:
    for name in (STAGE, DIGEST):
        shutil.copy(bundled_sample() / name, tmp_path)
    content = bytearray((tmp_path / STAGE).read_bytes())
    content[-1] ^= 1
    (tmp_path / STAGE).write_bytes(content)
    assert not seed_cache(tmp_path / "cache", tmp_path)
    assert not (tmp_path / "cache").exists()
    assert not seed_cache(tmp_path / "cache", tmp_path / "nothing here")


def test_a_part_of_the_priors_computed_again_is_the_same(catalog: Catalog, llm: LocalLLM) -> None:
    from lumos_core.views.llm.likelihood import log_likelihoods
    from lumos_core.views.titles import judgements

    shipped = load_file(bundled_sample() / STAGE)["prior"]
    items = np.random.default_rng(1).choice(len(catalog), 16, replace=False) + 1
    prompt = ListPrompt(llm, prompts.list_head(RunConfig().llm_noun), title_tokens(llm, catalog))
    contexts = np.random.default_rng(0).integers(
        1, len(catalog) + 1, (judgements._CONTEXTS, judgements._CONTEXT_ITEMS)
    )
    again = np.mean(
        log_likelihoods(llm, [prompt.request(c, items.tolist()) for c in contexts.tolist()]), axis=0
    )
    np.testing.assert_allclose(again, shipped[items - 1], atol=PRIOR_TOLERANCE)
    assert np.abs(again - shipped[items - 1]).mean() < PRIOR_TOLERANCE / 4


def test_likeness_of_some_titles_read_again_is_the_same(catalog: Catalog, llm: LocalLLM) -> None:
    """Vectors are whitened over the whole catalog, so a part cannot be computed alone; how alike
    the model finds titles can: neighbours in the file are neighbours to the model."""
    vectors = load_file(bundled_sample() / STAGE)["vectors"].astype(np.float32)
    drawn = np.random.default_rng(2).choice(len(catalog), 12, replace=False)
    cosines = vectors[drawn] @ vectors.T
    cosines[np.arange(12), drawn] = -1
    nearest, others = cosines.argmax(axis=1), np.random.default_rng(3).permutation(drawn)
    rows = np.concatenate([drawn, nearest, others])
    states = read_titles(llm, tuple(catalog.titles[row] for row in rows)).words
    states = states - states.mean(axis=0)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    near = (states[:12] * states[12:24]).sum(axis=1)
    far = (states[:12] * states[24:]).sum(axis=1)
    assert (near > far).mean() > 0.8


def test_views_are_alike_on_every_machine(
    catalog: Catalog, cache: Path, llm: LocalLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 and in float32: what processors of different kinds compute in."""
    draw = np.random.default_rng(0)
    histories = [
        (draw.choice(len(catalog), draw.integers(1, 9), replace=False) + 1).tolist()
        for _ in range(24)
    ]
    stages: list[StageProgress] = []
    made: list[CatalogTables] = []
    views = []
    for dtype in ("bfloat16", "float32"):
        monkeypatch.setenv("LUMOS_LLM_DTYPE", dtype)
        model = load_llm(LLMConfig(cache_dir=cache, threads=1))
        assert str(model.model.dtype) == f"torch.{dtype}"
        work = Work(on_stage=stages.append)
        made.append(catalog_tables(model, catalog, RunConfig().llm_noun, cache, work))
        views.append(LLMViewWriter(model, catalog, made[-1], ViewSettings()).write(histories))
    assert not stages, "nothing of the catalog had to be computed"
    one, other = ([set(v) for user in found for v in user] for found in views)
    same = sum(len(a & b) for a, b in zip(one, other, strict=True))
    assert same / sum(map(len, one)) >= SAME_ITEMS
