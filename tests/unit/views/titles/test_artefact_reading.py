"""What is in an artefact: the vectors and priors that this machine would compute; old ones stay."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_llm import save_tiny_llm

from lumos_core.data.catalog import Catalog
from lumos_core.errors import ArtefactError
from lumos_core.views.llm.find import LLMConfig
from lumos_core.views.llm.load import LocalLLM, load_llm
from lumos_core.views.titles import artefact_reading, embeddings
from lumos_core.views.titles.artefact_reading import (
    build_artefact,
    check_sample,
    extend_artefact,
    read_rows,
)
from lumos_core.views.titles.catalog_artefact import CatalogArtefact
from lumos_core.views.titles.embeddings import title_embeddings
from lumos_core.views.titles.judgements import WORDING_DIM, catalog_tables
from lumos_core.views.titles.resumable import BudgetSpentError, StageProgress, Work
from lumos_core.views.titles.tfidf import tfidf_embeddings

ROOT = Path(__file__).parents[4]
MEASURED = ROOT / "benchmarks" / "results" / "catalog_cost.json"
PAGE = ROOT / "docs" / "data.md"
NOUN = "things seen"
COLOURS = ("red", "blue", "green", "black", "white", "golden")
THINGS = ("pen", "desk lamp", "garden hose", "tin of paint", "chair", "mirror", "door mat")
TITLES = tuple(f"{colour} {thing}" for colour in COLOURS for thing in THINGS)
NEW = ("violet clock", "red pen with blue ink", "Ωμέγα")


def catalog_of(titles: tuple[str, ...]) -> Catalog:
    return Catalog(tuple(f"i{n}" for n in range(len(titles))), titles)


@pytest.fixture(scope="module")
def choice(tmp_path_factory: pytest.TempPathFactory) -> LLMConfig:
    folder = tmp_path_factory.mktemp("model")
    return LLMConfig(str(save_tiny_llm(folder)), device="cpu", cache_dir=folder / "cache")


@pytest.fixture(scope="module")
def llm(choice: LLMConfig) -> LocalLLM:
    loaded = load_llm(choice)
    loaded.model.float()
    return loaded


@pytest.fixture(scope="module")
def made(llm: LocalLLM, choice: LLMConfig) -> CatalogArtefact:
    return build_artefact(llm, choice, catalog_of(TITLES), NOUN)


def cosines(one: Any, other: Any) -> Any:
    return (np.asarray(one, np.float64) * np.asarray(other, np.float64)).sum(axis=1)


def test_rows_are_what_a_machine_computes_by_itself(
    made: CatalogArtefact, llm: LocalLLM, tmp_path: Path
) -> None:
    catalog = catalog_of(TITLES)
    own = title_embeddings(llm, catalog, tmp_path)
    np.testing.assert_allclose(made.of(TITLES).meaning, own, atol=2e-3)
    wording = tfidf_embeddings(TITLES, WORDING_DIM, seed=0)
    assert cosines(made.of(TITLES).wording, wording).min() > 0.99
    prior = catalog_tables(llm, catalog, NOUN, tmp_path).prior
    np.testing.assert_allclose(made.of(TITLES).prior, prior, atol=1e-4)


def test_equal_titles_are_read_once_and_count_as_often_as_they_are_there(
    llm: LocalLLM, choice: LLMConfig, tmp_path: Path
) -> None:
    twice = (*TITLES, *TITLES[:9])
    before = llm.read.tokens
    made = build_artefact(llm, choice, catalog_of(twice), NOUN)
    read = llm.read.tokens - before
    assert len(made) == len(TITLES)
    own = title_embeddings(llm, catalog_of(twice), tmp_path)
    np.testing.assert_allclose(made.of(twice).meaning, own, atol=2e-3)
    before = llm.read.tokens
    build_artefact(llm, choice, catalog_of(TITLES), NOUN)
    # the contexts of priors are other ones, of other lengths
    assert read == pytest.approx(llm.read.tokens - before, rel=0.02)


def test_a_title_has_the_same_row_whatever_is_read_with_it(
    made: CatalogArtefact, llm: LocalLLM
) -> None:
    alone = read_rows(llm, made.basis, TITLES[5:6])
    beside = made.of(TITLES[5:6])
    np.testing.assert_allclose(alone.meaning, beside.meaning, atol=2e-3)
    np.testing.assert_allclose(alone.wording, beside.wording, atol=2e-3)
    np.testing.assert_allclose(alone.prior, beside.prior, atol=1e-3)


def test_extending_reads_new_titles_only_and_keeps_every_bit_of_old_ones(
    made: CatalogArtefact, llm: LocalLLM, choice: LLMConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plainly = artefact_reading.read_titles

    def noting(llm: LocalLLM, titles: Any, *others: Any) -> Any:
        read.extend(titles)
        return plainly(llm, titles, *others)

    monkeypatch.setattr(artefact_reading, "read_titles", noting)
    grown = catalog_of((NEW[0], *TITLES[3:], *NEW[1:]))  # three items are gone, the order changed
    more = extend_artefact(made, llm, choice, grown)
    assert read == list(NEW)
    assert len(more) == len(made) + len(NEW)
    for name, array in made.arrays().items():
        found = more.arrays()[name]
        np.testing.assert_array_equal(found[: len(array)] if "." not in name else found, array)
    assert more.about.basis == made.about.basis
    assert more.about.digest != made.about.digest
    assert more.missing(TITLES + NEW) == []
    assert extend_artefact(more, llm, choice, grown) is more


def test_extending_in_two_steps_or_in_one_is_the_same(
    made: CatalogArtefact, llm: LocalLLM, choice: LLMConfig
) -> None:
    one = extend_artefact(made, llm, choice, catalog_of(NEW))
    first = extend_artefact(made, llm, choice, catalog_of(NEW[:1]))
    other = extend_artefact(first, llm, choice, catalog_of(NEW))
    assert (cosines(one.of(NEW).meaning, other.of(NEW).meaning) > 0.999).all()
    np.testing.assert_allclose(one.of(NEW).prior, other.of(NEW).prior, atol=1e-3)


def test_new_titles_are_near_old_ones_that_are_alike(
    made: CatalogArtefact, llm: LocalLLM, choice: LLMConfig
) -> None:
    more = extend_artefact(made, llm, choice, catalog_of(("red desk lamps", "blue pens")))
    for new, old in (("red desk lamps", "red desk lamp"), ("blue pens", "blue pen")):
        for name in ("meaning", "wording"):
            (row,) = getattr(more.of([new]), name).astype(np.float32)
            near = getattr(more.of(TITLES), name).astype(np.float32) @ row
            assert TITLES[int(near.argmax())] == old


def test_a_catalog_of_one_title(llm: LocalLLM, choice: LLMConfig, tmp_path: Path) -> None:
    made = build_artefact(llm, choice, catalog_of(("lamp",)), NOUN)
    more = extend_artefact(made, llm, choice, catalog_of(("desk",)))
    more.write(tmp_path / "one.safetensors")
    found = CatalogArtefact.read(tmp_path / "one.safetensors")
    check_sample(tmp_path / "one.safetensors", found, llm, ["lamp", "desk"])


def test_an_interrupted_build_resumes(
    llm: LocalLLM, choice: LLMConfig, made: CatalogArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "_BATCH", 8)
    seen: list[StageProgress] = []
    with pytest.raises(BudgetSpentError):
        build_artefact(llm, choice, catalog_of(TITLES), NOUN, Work(0.0, seen.append))
    assert seen[-1] == StageProgress("titles", 8, len(TITLES))
    before = llm.read.tokens
    again = build_artefact(llm, choice, catalog_of(TITLES), NOUN)
    after = llm.read.tokens
    build_artefact(llm, choice, catalog_of(TITLES), NOUN)
    assert after - before < llm.read.tokens - after  # the first piece was stored
    assert (cosines(again.of(TITLES).meaning, made.of(TITLES).meaning) > 0.999).all()
    assert not list(choice.cache.glob("catalogs/*.pieces"))


# ---------------------------------------------------------------- the sample
def lied(a: CatalogArtefact, change: Callable[[Any], Any], name: str) -> CatalogArtefact:
    """An artefact, with sound digests, that says something else."""
    rows = a.rows._replace(**{name: change(getattr(a.rows, name))})
    return CatalogArtefact.sealed(a.about, a.basis, (key.tobytes() for key in a.keys), rows)


def moved(array: Any) -> Any:
    return np.roll(array, 1, axis=0)


def test_an_honest_file_passes_whichever_titles_are_drawn(
    made: CatalogArtefact, llm: LocalLLM, tmp_path: Path
) -> None:
    for _ in range(5):
        check_sample(tmp_path, made, llm, TITLES)


def test_a_file_by_a_machine_with_another_number_format_passes(
    made: CatalogArtefact, choice: LLMConfig, tmp_path: Path
) -> None:
    other = load_llm(choice)
    other.model.to(torch.bfloat16)
    for _ in range(5):
        check_sample(tmp_path, made, other, TITLES)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("meaning", moved),
        ("wording", moved),
        ("meaning", np.zeros_like),
        ("meaning", np.negative),
        ("prior", lambda prior: prior - 5),
    ],
)
def test_a_file_that_lies_is_refused_by_name(
    made: CatalogArtefact, llm: LocalLLM, tmp_path: Path, name: str, change: Callable[[Any], Any]
) -> None:
    path = tmp_path / "lies.safetensors"
    lied(made, change, name).write(path)
    found = CatalogArtefact.read(path)  # nothing is wrong with the file itself
    with pytest.raises(ArtefactError, match=rf"lies\.safetensors.*{name}.*lumos catalog build"):
        check_sample(path, found, llm, TITLES)


def test_a_basis_that_does_not_fit_the_model_is_refused(
    made: CatalogArtefact, llm: LocalLLM, tmp_path: Path
) -> None:
    basis = replace(made.basis, contexts=((1, 2, 100_000),))
    other = CatalogArtefact.sealed(
        made.about, basis, (key.tobytes() for key in made.keys), made.rows
    )
    with pytest.raises(ArtefactError, match="token 100000"):
        check_sample(tmp_path, other, llm, TITLES)


# ---------------------------------------------------------------- what was measured
def test_tolerances_are_wider_than_what_was_measured_with_the_bundled_model() -> None:
    measured = json.loads(MEASURED.read_text())
    assert measured["tolerated"] == {
        "least cosine, meaning": artefact_reading.MEANING_AGREES,
        "least cosine, wording": artefact_reading.WORDING_AGREES,
        "largest difference, prior": artefact_reading.PRIOR_AGREES,
    }
    assert measured["agreement"].keys() == {"bfloat16", "float32"}
    for found in measured["agreement"].values():
        for name in ("meaning", "wording"):
            least = f"least cosine, {name}"
            assert 1 - found[least] < (1 - measured["tolerated"][least]) / 2
        largest = "largest difference, prior"
        assert found[largest] < measured["tolerated"][largest] / 2


def test_a_catalog_that_grows_by_a_twentieth_costs_about_a_twentieth() -> None:
    measured = json.loads(MEASURED.read_text())
    assert measured["old rows are equal to the bit"]
    costs = measured["costs"]
    extended, built = (
        costs[f"artefact {what}"]["tokens"]
        for what in ("extended by the last 5 %", "built, of all items")
    )
    assert extended / built == pytest.approx(0.05, abs=0.01)
    used = costs["artefact used: compared, once a machine"]["tokens"]
    own = costs["own reading: titles, priors"]["tokens"]
    assert used < 0.01 * own
    assert f"{100 * extended / built:.1f} % of the tokens" in PAGE.read_text(encoding="utf-8")
