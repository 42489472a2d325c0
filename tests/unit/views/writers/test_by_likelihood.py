"""Scoring, tables and the LLM writer, on a tiny random model: the contract holds for any model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_llm import save_tiny_llm

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.views.build import build_views
from lumos_core.views.llm import likelihood, prompts
from lumos_core.views.llm.find import LLMConfig
from lumos_core.views.llm.likelihood import Request, log_likelihoods
from lumos_core.views.llm.load import LocalLLM, load_llm
from lumos_core.views.titles import embeddings, judgements
from lumos_core.views.titles.judgements import ListPrompt, catalog_tables, priors, title_tokens
from lumos_core.views.titles.resumable import Work
from lumos_core.views.titles.vectors import semantic_vectors
from lumos_core.views.view import ViewWriter
from lumos_core.views.view_store import ViewStore
from lumos_core.views.writers.by_likelihood import (
    LLMViewWriter,
    choose_counterfactual,
    choose_future,
    writer_fingerprint,
)
from lumos_core.views.writers.choose import make_writer, view_factory
from lumos_core.views.writers.view_settings import ViewSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llm(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LocalLLM:
    """In float32: equality with the plain computation must not hide behind rounding."""
    loaded = load_llm(LLMConfig(str(folder), device="cpu"))
    loaded.model.float()
    return loaded


def catalog_of(titles: list[str]) -> Catalog:
    return Catalog(tuple(f"i{n}" for n in range(len(titles))), tuple(titles))


WORDS = ["red pen", "blue pen", "desk", "lamp", "garden hose", "hose", "ink", "red pen"]


def plainly(llm: LocalLLM, context: list[int], candidate: list[int]) -> float:
    """The same number without packing, masks, batches."""
    with torch.inference_mode():
        logs = llm.model(torch.tensor([context + candidate])).logits[0].log_softmax(-1)
    return sum(logs[len(context) - 1 + i, token].item() for i, token in enumerate(candidate))


token = st.integers(1, 256)
piece = st.lists(token, min_size=1, max_size=9)
request = st.builds(Request, piece, st.lists(piece, min_size=1, max_size=5))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(requests=st.lists(request, min_size=1, max_size=5), limit=st.integers(1, 64))
def test_packed_scores_are_the_plain_ones(
    llm: LocalLLM, monkeypatch: pytest.MonkeyPatch, requests: list[Request], limit: int
) -> None:
    monkeypatch.setattr(likelihood, "_TOKENS_PER_BATCH", limit)  # any split into batches
    for one, scores in zip(requests, log_likelihoods(llm, requests), strict=True):
        expected = [plainly(llm, one.context, candidate) for candidate in one.candidates]
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_a_request_without_candidates_has_no_scores(llm: LocalLLM) -> None:
    scores = log_likelihoods(llm, [Request([1, 2], []), Request([3], [[4]])])
    assert [len(row) for row in scores] == [0, 1]


def tokens_read(llm: LocalLLM, requests: list[Request]) -> tuple[int, int]:
    """Real ones and padding."""
    tokens, padding = llm.read.tokens, llm.read.padding
    log_likelihoods(llm, requests)
    return llm.read.tokens - tokens, llm.read.padding - padding


def test_no_token_is_read_twice(llm: LocalLLM) -> None:
    assert tokens_read(llm, [Request([1, 2, 3], [[4]])]) == (3, 0), "the last is only predicted"
    alike = [[4, 5, 6], [4, 5, 7], [4, 5], [8, 5, 6]]
    assert tokens_read(llm, [Request([1, 2, 3], alike)]) == (3 + 2 + 2, 0)
    begin = list(range(10, 30))
    both = [Request([*begin, 1, 2], [[4, 5]]), Request([*begin, 3], [[4, 5]])]
    assert tokens_read(llm, both) == (20 + 3 + 2, 0)
    same = [Request([1, 2, 3], [[4, 5]])] * 2  # the end of a context is read for each
    assert tokens_read(llm, same) == (2 + 2 * 2, 0)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_pieces_lie_beside_each_other_with_little_between(lengths: list[int]) -> None:
    places, rows, width = likelihood._fit(lengths)
    taken = np.zeros((rows, width), dtype=int)
    for (row, column), length in zip(places, lengths, strict=True):
        assert column + length <= width
        taken[row, column : column + length] += 1
    assert taken.max() == 1
    assert width <= max(256, 2 * max(lengths))
    assert rows == 1 or taken.sum() > rows * width / 2


def test_rows_of_likely_lengths_are_nearly_full() -> None:
    for mean in (60, 90, 150):
        lengths = np.random.default_rng(mean).normal(mean, mean / 8, 32).astype(int).tolist()
        _, rows, width = likelihood._fit(lengths)
        assert sum(lengths) > 0.95 * rows * width


def test_priors_are_means_over_the_same_histories_for_all(llm: LocalLLM) -> None:
    catalog = catalog_of(WORDS * 5)  # more than a pack
    prompt = ListPrompt(llm, "Things:", title_tokens(llm, catalog))
    everything = list(range(1, len(catalog) + 1))
    drawn = (judgements._CONTEXTS, judgements._CONTEXT_ITEMS)
    histories = np.random.default_rng(0).integers(1, len(catalog) + 1, drawn).tolist()
    expected = np.mean(
        [
            [plainly(llm, context, candidate) for candidate in candidates]
            for context, candidates in (prompt.request(h, everything) for h in histories)
        ],
        axis=0,
    )
    np.testing.assert_allclose(priors(llm, prompt, len(catalog)), expected, rtol=1e-4, atol=1e-4)


def test_title_readings_do_not_depend_on_batches(
    llm: LocalLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = embeddings.read_titles(llm, tuple(WORDS))
    monkeypatch.setattr(embeddings, "_BATCH", 1)
    for one, other in zip(together, embeddings.read_titles(llm, tuple(WORDS)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_title_readings_are_those_of_whole_texts(llm: LocalLLM) -> None:
    """Though what all of them begin with is read once a batch."""
    before, after = llm.encode(prompts.EMBED_BEFORE), llm.encode(prompts.EMBED_AFTER)
    tokens = embeddings.embedding_tokens(llm, WORDS)
    already = llm.read.tokens
    readings = embeddings.read_titles(llm, WORDS)
    behind = sum(len(title) + len(after) for title in tokens)
    assert llm.read.tokens - already == len(before) + behind
    for row, title in enumerate(tokens):
        whole = torch.tensor([before + title + after])
        (late,) = llm.hidden_states(whole, (round(embeddings._LATE * llm.layers),))
        own = late[0, len(before) : len(before) + len(title)].mean(dim=0)
        np.testing.assert_allclose(readings.meaning[row], own, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(readings.gist[row], late[0, -1], rtol=1e-4, atol=1e-4)


def test_titles_that_begin_alike_share_the_beginning_wherever_they_stand(
    llm: LocalLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judgements, "_PACK", 2)
    alike, others = [[7, 8, 9, n] for n in (10, 11)], [[n, 1, 2, 3] for n in (30, 40)]
    apart = [alike[0], others[0], others[1], alike[1]]
    already = llm.read.tokens
    found = judgements.priors_behind(llm, [[1, 2, 3]], apart)
    # two tokens before a context's last are shared; that one, for each of two packs
    assert llm.read.tokens - already == 2 + (1 + 3) + (1 + 3 + 3)
    expected = [plainly(llm, [1, 2, 3], title) for title in apart]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_half_whitening_halves_the_exponent_of_the_spread() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(500, 4)).astype(np.float32) * [8.0, 4.0, 2.0, 1.0]
    centred = states - states.mean(0)
    u, spread, _ = np.linalg.svd(centred, full_matrices=False)
    expected = embeddings.unit((u * np.sqrt(spread)).astype(np.float32))
    got = embeddings.half_whiten(states.astype(np.float32), 4)
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=1e-3)
    assert embeddings.half_whiten(states.astype(np.float32), 2).shape == (500, 2)


def test_embeddings_of_equal_titles_are_equal_and_of_one_title_defined(llm: LocalLLM) -> None:
    vectors = embeddings.combine(embeddings.read_titles(llm, tuple(WORDS)))
    np.testing.assert_allclose(vectors[0], vectors[7], atol=1e-5)
    alone = embeddings.combine(embeddings.read_titles(llm, ("red pen",)))
    assert alone.shape[0] == 1
    assert np.isfinite(alone).all()


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_views_keep_the_contract(
    llm: LocalLLM, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    title = st.text("abc ", min_size=1, max_size=6).map(lambda t: " ".join(t.split()) or "x")
    titles = data.draw(st.lists(title, min_size=1, max_size=30))
    items = len(titles)
    options = ViewSettings(
        future_items=data.draw(st.integers(1, 6)),
        recent=data.draw(st.integers(1, 9)),
        seed=1,
        judges=data.draw(st.sampled_from(["future", "all"])),
    )
    catalog = catalog_of(titles)
    cache = tmp_path_factory.mktemp("cache")
    made = catalog_tables(llm, catalog, options.noun, cache, judges=options.judges)
    writer = LLMViewWriter(llm, catalog, made, options)
    history = st.lists(st.integers(1, items), min_size=1, max_size=12)
    histories = data.draw(st.lists(history, min_size=1, max_size=4))
    views = writer.write(histories)
    assert writer.write(histories) == views
    for one, history in zip(views, histories, strict=True):
        length = min(len(history), options.recent)
        assert len(one.paraphrase) == len(one.counterfactual) == length
        new = items - len(set(history))
        assert len(one.future) == min(options.future_items, new)
        assert not set(one.future) & set(history)
        assert len(set(one.future)) == len(one.future)
        assert all(1 <= item <= items for view in one for item in view)
        if new:
            assert not set(one.counterfactual) & set(history)
        if new >= length + 3:
            assert len(set(one.counterfactual)) == length


def test_views_do_not_depend_on_the_batch(llm: LocalLLM, tmp_path: Path) -> None:
    catalog = catalog_of([f"{a} {b}" for a in ("red", "old", "big") for b in WORDS[:7]])
    options = ViewSettings(future_items=3)
    made = catalog_tables(llm, catalog, options.noun, tmp_path)
    writer = LLMViewWriter(llm, catalog, made, options)
    histories = [[1, 2, 3, 4, 5], [21], [8, 9], list(range(1, 13))]
    together = writer.write(histories)
    assert [writer.write([history])[0] for history in histories] == together


def test_future_takes_nearness_and_judgement() -> None:
    near = np.array([0.9, 0.8, 0.1, 0.5], dtype=np.float32)
    even = np.zeros(3, dtype=np.float32)
    assert choose_future([1, 2, 3], near, even, 2) == (1, 2)
    strong = np.array([-9.0, 0.0, 9.0], dtype=np.float32)
    assert choose_future([1, 2, 3], np.full(4, 0.5, np.float32), strong, 2) == (3, 2)
    assert choose_future([], near, even[:0], 2) == ()


def test_counterfactual_keeps_the_least_likely_and_ends_with_the_least() -> None:
    pmi = np.array([3.0, -5.0, 0.0, -1.0], dtype=np.float32)
    assert choose_counterfactual([10, 11, 12, 13], pmi, 2) == (13, 11)
    assert choose_counterfactual([10], pmi[:1], 3) == (10, 10, 10)
    assert choose_counterfactual([10, 11, 12], pmi[:0], 2) == (10, 11), "not asked"


def test_fingerprint_covers_all_that_views_depend_on() -> None:
    catalog, other = catalog_of(["a", "b"]), catalog_of(["a", "c"])
    base = ViewSettings()
    variants = [
        base._replace(noun="films seen"),
        base._replace(future_items=4),
        base._replace(recent=3),
        base._replace(prompt_items=2),
        base._replace(candidates=30),
        base._replace(judges="all"),
        base._replace(seed=5),
    ]
    prints = [writer_fingerprint("m", catalog, one) for one in [base, *variants]]
    prints += [writer_fingerprint("n", catalog, base), writer_fingerprint("m", other, base)]
    assert len(set(prints)) == len(prints) == 10


def test_factory_writes_once_and_announces_the_fingerprint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "cache"))
    config = RunConfig(llm="no-such-model-anywhere").replace(view_items=2)
    node = NodeConfig(data="unused", llm=str(folder))  # a node's own choice wins
    catalog = catalog_of(WORDS)
    fingerprint, factory = view_factory(config, node, catalog)
    histories = [[1, 2], [3], [1, 2, 5]]
    with ViewStore(tmp_path / "views.sqlite") as store:
        views = build_views(histories, factory, fingerprint, store)
        assert views.keys() == {0, 1, 2}

        def forbidden(work: Work) -> ViewWriter:
            raise AssertionError("nothing was missing")

        assert build_views(histories, forbidden, fingerprint, store) == views
    choice = LLMConfig(str(folder), device="cpu")
    again = make_writer(load_llm(choice), choice, catalog, ViewSettings(future_items=2), "score")
    assert dict(enumerate(again.write(histories))) == views


def test_semantic_vectors_come_from_the_cache_the_second_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path))
    config = RunConfig(llm=str(folder), semantic_start="llm")
    vectors = semantic_vectors(config, catalog_of(WORDS))
    assert vectors.dtype == np.float32
    assert len(vectors) == len(WORDS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def forbidden(config: LLMConfig) -> LocalLLM:
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr(embeddings, "load_llm", forbidden)
    np.testing.assert_array_equal(semantic_vectors(config, catalog_of(WORDS)), vectors)
