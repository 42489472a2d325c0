"""The catalog's preparation: the same numbers however often it is interrupted, never twice."""

from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from tiny_llm import save_tiny_llm

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.views.llm import likelihood
from lumos_core.views.llm.find import LLMConfig
from lumos_core.views.llm.likelihood import log_likelihoods
from lumos_core.views.llm.load import LocalLLM, load_llm
from lumos_core.views.source import view_source
from lumos_core.views.titles import embeddings, judgements
from lumos_core.views.titles.cache import cached_arrays
from lumos_core.views.titles.judgements import (
    CatalogTables,
    ListPrompt,
    catalog_tables,
    title_tokens,
)
from lumos_core.views.titles.resumable import (
    WAITING,
    Arrays,
    BudgetSpentError,
    Pieces,
    StageProgress,
    Work,
    write_arrays,
)
from lumos_core.views.titles.space import TitleSpace
from lumos_core.views.writers.by_likelihood import writer_fingerprint
from lumos_core.views.writers.view_settings import ViewSettings

NOUN = "things"
NOUNS = ("pen", "desk", "lamp", "hose", "inks", "cup", "mug", "jar")
TITLES = tuple(f"{a} {b}" for a in ("red", "old", "big", "1", "blue") for b in NOUNS)
CATALOG = Catalog(tuple(f"i{n}" for n in range(len(TITLES))), TITLES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llm(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LocalLLM:
    return load_llm(LLMConfig(str(folder), device="cpu", threads=1))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "_TOKENS_PER_BATCH", 300)
    monkeypatch.setattr(embeddings, "_BATCH", 8)


def same(one: CatalogTables, other: CatalogTables) -> None:
    for a, b in (
        (one.space.vectors, other.space.vectors),
        (one.prior, other.prior),
        (one.substitutes, other.substitutes),
    ):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("small_batches")
def test_tables_do_not_depend_on_interruptions(llm: LocalLLM, tmp_path: Path) -> None:
    whole: list[StageProgress] = []
    made = catalog_tables(llm, CATALOG, NOUN, tmp_path / "a", Work(on_stage=whole.append), "all")
    finished = {p.stage for p in whole if p.done == p.total}
    assert finished == {"titles", "priors", "substitutes"}

    calls = 0
    while True:
        calls += 1
        try:  # every call has just enough time for one piece
            again = catalog_tables(llm, CATALOG, NOUN, tmp_path / "b", Work(1e-9), "all")
            break
        except BudgetSpentError:
            assert calls < 200
    pieces = sum(p.done > 0 for p in whole)
    assert calls >= pieces - 3  # what follows the last piece of a stage may share its call
    assert pieces > 10
    same(again, made)
    assert not list((tmp_path / "b" / "catalogs").glob("*.pieces"))


@pytest.mark.usefixtures("small_batches")
def test_tables_are_those_of_the_plain_functions(llm: LocalLLM, tmp_path: Path) -> None:
    made = catalog_tables(llm, CATALOG, NOUN, tmp_path, judges="all")
    meaning = embeddings.combine(embeddings.read_titles(llm, CATALOG.titles))
    vectors = judgements.title_space(meaning, CATALOG)
    prompt = ListPrompt(llm, judgements.prompts.list_head(NOUN), title_tokens(llm, CATALOG))
    requests = [prompt.request([1, 2], [3, 4, 5]), prompt.request([7], [9])]
    scored = judgements._scored(llm, requests, "any", None)
    for one, other in zip(scored, log_likelihoods(llm, requests), strict=True):
        np.testing.assert_array_equal(one, other)
    prior = judgements.priors(llm, prompt, len(CATALOG))
    table = judgements.substitute_table(llm, prompt, TitleSpace(vectors), prior)
    same(made, CatalogTables(made.titles, TitleSpace(vectors), prior, table))


@pytest.mark.usefixtures("small_batches")
def test_by_default_substitutes_stand_in_order_of_nearness(llm: LocalLLM, tmp_path: Path) -> None:
    stages: list[StageProgress] = []
    made = catalog_tables(llm, CATALOG, NOUN, tmp_path, Work(on_stage=stages.append))
    assert {p.stage for p in stages} == {"titles", "priors"}
    cosines = made.space.vectors @ made.space.vectors.T
    np.fill_diagonal(cosines, -np.inf)
    np.testing.assert_array_equal(made.substitutes[:, 0], cosines.argmax(axis=1) + 1)
    ordered = np.take_along_axis(cosines, made.substitutes - 1, axis=1)
    assert (np.diff(ordered, axis=1) <= 0).all()


def test_a_piece_is_computed_once_unless_it_is_about_other_rows(tmp_path: Path) -> None:
    computed: list[list[int]] = []

    def double(rows: list[int]) -> Arrays:
        computed.append(list(rows))
        return {"x": np.asarray(rows) * 2}

    def run(plan: list[list[int]]) -> list[int]:
        return [
            x for _, arrays in Pieces(tmp_path / "p").each("s", plan, double) for x in arrays["x"]
        ]

    assert run([[1, 2], [3]]) == [2, 4, 6]
    assert run([[1, 2], [3]]) == [2, 4, 6]
    assert computed == [[1, 2], [3]]
    assert run([[1, 2], [4]]) == [2, 4, 8]
    assert computed[2:] == [[4]]
    (tmp_path / "p" / "s-00000.safetensors").write_bytes(b"cut short")
    run([[1, 2], [4]])
    assert computed[3:] == [[1, 2]]


def test_waiting_for_another_process_ends_with_the_budget(tmp_path: Path) -> None:
    def forbidden(pieces: Pieces) -> Arrays:
        raise AssertionError("another process holds the lock")

    path = tmp_path / "t.safetensors"
    with FileLock(tmp_path / ".t.safetensors.lock"), pytest.raises(BudgetSpentError):
        cached_arrays(path, forbidden, Work(0.05))


def test_whoever_waits_for_another_process_says_so(tmp_path: Path) -> None:
    """It does nothing for minutes, which would look as if it were stuck."""
    path, other = tmp_path / "t.safetensors", FileLock(tmp_path / ".t.safetensors.lock")
    seen: list[StageProgress] = []

    def waiting(progress: StageProgress) -> None:
        seen.append(progress)
        if progress.stage == WAITING and not progress.done:
            write_arrays(path, {"x": np.arange(3)})
            other.release()

    def forbidden(pieces: Pieces) -> Arrays:
        raise AssertionError("the other process has computed it")

    other.acquire()
    assert cached_arrays(path, forbidden, Work(on_stage=waiting))["x"].tolist() == [0, 1, 2]
    assert seen == [StageProgress(WAITING, 0, 1), StageProgress(WAITING, 1, 1)]


def test_nobody_waits_where_no_other_process_computes(tmp_path: Path) -> None:
    seen: list[StageProgress] = []
    cached_arrays(tmp_path / "t", lambda _: {"x": np.zeros(1)}, Work(on_stage=seen.append))
    assert seen == []


@pytest.mark.usefixtures("small_batches")
def test_a_round_whose_budget_ends_in_the_catalog_has_no_views_and_the_next_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "cache"))
    config = RunConfig(llm=str(folder), llm_noun=NOUN)
    node = NodeConfig(data=str(tmp_path / "node"))
    histories = Sequences.from_lists([[1, 2, 3], [4, 5]], ["a", "b"])
    seen: list[StageProgress] = []
    rounds = 0
    while not (
        views := view_source(config, node, CATALOG, seconds=1e-9, on_stage=seen.append)(histories)
    ):
        rounds += 1
        assert rounds < 200
    assert rounds > 3
    assert views.keys() == {0, 1}
    titles = [p for p in seen if p.stage == "titles"]
    assert titles[-1].done == titles[-1].total == len(CATALOG)


def test_fingerprint_of_judged_views_is_the_one_of_stored_views() -> None:
    """Views cost hours: what earlier versions stored must be found again."""
    catalog = Catalog(("a", "b"), ("x", "y"))
    assert writer_fingerprint("m", catalog, ViewSettings()) == (
        "777f1d05cea2bb0ce5e323d90746cf58952a0a32e2020bedaa4c3f7d260c450d"
    )
