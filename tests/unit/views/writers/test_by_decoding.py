"""Views that the model writes itself: the trie, grounding, both writers on a tiny random model."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_llm import save_tiny_llm

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.views.build import build_views
from lumos_core.views.llm import prompts
from lumos_core.views.llm.decoding import generate, write_titles
from lumos_core.views.llm.find import LLMConfig, model_size
from lumos_core.views.llm.load import LocalLLM, load_llm
from lumos_core.views.llm.title_trie import TitleTrie, Walk
from lumos_core.views.titles.space import TitleSpace
from lumos_core.views.titles.tfidf import tfidf_embeddings
from lumos_core.views.view_store import ViewStore
from lumos_core.views.writers import choose
from lumos_core.views.writers.by_decoding import WrittenViewWriter, complete, written_fingerprint
from lumos_core.views.writers.by_likelihood import writer_fingerprint
from lumos_core.views.writers.choose import view_factory
from lumos_core.views.writers.grounding import Grounder, normalise, parse_lines
from lumos_core.views.writers.view_settings import ViewSettings

SEPARATOR, STOP = [8, 9], 0
TITLES = [[1, 2], [1, 2, 3], [4], [1, 2], [1, 5]]  # items 1 and 4 are written alike


def walk_of(
    pools: list[list[int] | None], taken: tuple[int, ...] = (), titles: list[list[int]] = TITLES
) -> Walk:
    return Walk(TitleTrie(titles), pools, taken, SEPARATOR, STOP)


def follow(walk: Walk, tokens: list[int]) -> None:
    for token in tokens:
        assert token in walk.allowed()
        walk.advance(token)


def test_a_walk_leads_to_titles_and_ends_each_with_the_separator() -> None:
    walk = walk_of([None, None])
    assert sorted(walk.allowed()) == [1, 4]
    follow(walk, [1])
    assert sorted(walk.allowed()) == [2, 5]
    follow(walk, [2])
    assert sorted(walk.allowed()) == [3, 8]  # a longer title, or the end of this one
    follow(walk, [8])
    assert walk.chosen == [1]
    assert walk.allowed() == [9]
    follow(walk, [9, 1, 2, 8])  # the same words again: the other item that has them
    assert walk.chosen == [1, 4]
    assert walk.allowed() == [STOP]


def test_taken_items_and_their_paths_are_closed() -> None:
    walk = walk_of([None], taken=(3, 5))
    assert walk.allowed() == [1]
    follow(walk, [1])
    assert walk.allowed() == [2]
    assert sorted(walk_of([None], taken=(1, 2, 4)).allowed()) == [1, 4]
    both = walk_of([None, None], taken=(2, 3, 4, 5))
    follow(both, [1, 2])
    assert both.allowed() == [8]
    follow(both, [8])
    assert both.chosen == [1]
    assert both.done  # nothing is left for the second position


def test_pools_bind_their_position_and_open_when_used_up() -> None:
    walk = walk_of([[3], [3, 5], [3]])
    assert walk.allowed() == [4]
    follow(walk, [4, 8, 9])
    assert walk.allowed() == [1]
    follow(walk, [1, 5, 8, 9])
    assert walk.allowed() == [1]  # 3 is taken: everything else is open
    follow(walk, [1, 2, 8])
    assert walk.chosen == [3, 5, 1]


def test_a_title_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="item 2"):
        TitleTrie([[1], []])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_walk_writes_different_items_of_its_pools(data: st.DataObject) -> None:
    titles = data.draw(
        st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=15)
    )
    items = st.integers(1, len(titles))
    pools = data.draw(st.lists(st.none() | st.lists(items, max_size=4), min_size=1, max_size=5))
    taken = data.draw(st.lists(items, max_size=6))
    walk = walk_of(pools, tuple(taken), titles)
    written: list[int] = []
    while not walk.done:
        written.append(data.draw(st.sampled_from(walk.allowed())))
        walk.advance(written[-1])
    new = len(titles) - len(set(taken))
    assert len(walk.chosen) == min(len(pools), new)
    assert len(set(walk.chosen)) == len(walk.chosen)
    assert not set(walk.chosen) & set(taken)
    expected: list[int] = []
    for item in walk.chosen:
        expected += titles[item - 1] + SEPARATOR
    assert written == expected[: len(written)]
    assert len(written) >= len(expected) - len(SEPARATOR) + 1 or not expected
    used = set(taken)
    for item, pool in zip(walk.chosen, pools, strict=False):
        left = set(pool or ()) - used
        assert not left or item in left
        used.add(item)


# ---------------------------------------------------------------- grounding
def test_lines_lose_what_lists_add() -> None:
    text = ' Red pen\n- "Blue pen"\n2. **Desk**\n\nSome more:\n* Lamp, 40 W\n(3) Hose\n10 pens'
    assert parse_lines(text) == ["Red pen", "Blue pen", "Desk", "Lamp, 40 W", "Hose", "10 pens"]
    assert normalise("  Café – LAMP, 40 W!") == normalise("café lamp 40 w")


CATALOG_TITLES = (
    "Red pen", "Blue pen", "Garden hose, 20 m", "RED PEN!", "Office desk with drawers", "!!!"
)  # fmt: skip


def test_grounding_finds_the_same_title_then_the_most_alike_then_nothing() -> None:
    grounder = Grounder(CATALOG_TITLES)
    lines = ["red pen", "garden hoses 20m", "quantum physics", "Red Pen", "red pen", "!!!"]
    assert grounder.ground(lines) == [1, 3, None, 4, None, 6]
    assert grounder.ground([]) == []


def test_grounding_keeps_out_what_is_taken_or_not_allowed() -> None:
    grounder = Grounder(CATALOG_TITLES)
    assert grounder.ground(["Blue pen", "blue pens"], taken=[2]) == [None, None]  # a copy
    assert grounder.ground(["Red pen", "Blue pen"], allowed=[2]) == [None, 2]


def test_gaps_are_filled_in_order_and_nothing_comes_twice() -> None:
    assert complete([None, 7], [[7, 3], [4], [3, 9, 5]], taken=[9]) == [3, 7, 5]
    assert complete([], [[1], [1]], taken=[]) == [1]


# ---------------------------------------------------------------- the writers
WORDS = [f"{a} {b}" for a in ("red", "old", "big") for b in ("pen", "desk", "lamp", "hose", "ink")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llm(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LocalLLM:
    loaded = load_llm(LLMConfig(str(folder), device="cpu", threads=1))
    loaded.model.float()
    return loaded


def catalog_of(titles: list[str]) -> Catalog:
    return Catalog(tuple(f"i{n}" for n in range(len(titles))), tuple(titles))


def space_of(titles: list[str]) -> TitleSpace:
    return TitleSpace(tfidf_embeddings(tuple(titles), 8, seed=0))


def test_the_model_chooses_its_likeliest_way_through_the_trie(llm: LocalLLM) -> None:
    """Batched, padded on the left, against a plain search without batch and cache."""
    import torch

    titles = [llm.encode(f" {word}") for word in WORDS]
    trie, bullet = TitleTrie(titles), llm.encode("\n-")
    contexts = [llm.encode("Things:\n-"), llm.encode("A much longer list of things, in order:\n-")]

    def walks() -> list[Walk]:
        return [Walk(trie, [None] * 3, [1, 2], bullet, 0) for _ in contexts]

    batched = walks()
    write_titles(llm, contexts, batched, steps=3 * (trie.depth + len(bullet)) + 1)
    for context, found, walk in zip(contexts, batched, walks(), strict=True):
        ids = list(context)
        while not walk.done:
            with torch.inference_mode():
                logits = llm.model(torch.tensor([ids])).logits[0, -1]
            token = max(walk.allowed(), key=lambda t: logits[t].item())
            ids.append(token)
            walk.advance(token)
        assert found.chosen == walk.chosen
        assert len(found.chosen) == 3


def test_a_models_own_penalties_do_not_count(llm: LocalLLM) -> None:
    context = [llm.encode("a b c a b c")]
    plain = generate(llm, context, 12, [])
    configured = llm.model.generation_config
    before = configured.repetition_penalty
    configured.repetition_penalty = 5.0
    try:
        assert generate(llm, context, 12, []) == plain
    finally:
        configured.repetition_penalty = before


@pytest.mark.parametrize("mode", ["trie", "free"])
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_written_views_keep_the_contract(llm: LocalLLM, mode: str, data: st.DataObject) -> None:
    title = st.text("abc ", min_size=1, max_size=6).map(lambda t: " ".join(t.split()) or "x")
    titles = data.draw(st.lists(title, min_size=1, max_size=20))
    items = len(titles)
    options = ViewSettings(
        future_items=data.draw(st.integers(1, 4)), recent=data.draw(st.integers(1, 5)), seed=1
    )
    catalog = catalog_of(titles)
    writer = WrittenViewWriter(llm, catalog, space_of(titles), options, mode)  # type: ignore[arg-type]
    history = st.lists(st.integers(1, items), min_size=1, max_size=8)
    histories = data.draw(st.lists(history, min_size=1, max_size=3))
    views = writer.write(histories)
    assert writer.write(histories) == views
    for one, history in zip(views, histories, strict=True):
        length = min(len(history), options.recent)
        new = items - len(set(history))
        assert len(one.paraphrase) == len(one.counterfactual) == length
        assert len(one.future) == min(options.future_items, new)
        assert all(1 <= item <= items for view in one for item in view)
        if new:
            assert not {*one.future, *one.paraphrase, *one.counterfactual} & set(history)
        assert len(set(one.future)) == len(one.future)


def test_counterfactuals_in_the_trie_come_from_the_far_end(llm: LocalLLM) -> None:
    titles = [f"red pen {n}" for n in range(30)] + [f"garden hose {n}" for n in range(30)]
    space = space_of(titles)
    writer = WrittenViewWriter(llm, catalog_of(titles), space, ViewSettings(), "trie")
    (views,) = writer.write([[1, 2]])
    likeness = (space.vectors @ space.vectors[[0, 1]].T).mean(axis=1)
    median = float(np.median(likeness))
    assert all(likeness[item - 1] < median for item in views.counterfactual)
    assert all(likeness[item - 1] > median for item in views.paraphrase)


def test_what_a_model_writes_freely_is_grounded(
    llm: LocalLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = [*WORDS, "garden gnome", "stone frog"]
    writer = WrittenViewWriter(
        llm, catalog_of(titles), space_of(titles), ViewSettings(future_items=3), "free"
    )

    def say(llm: LocalLLM, prompts: list[list[int]], steps: int) -> list[str]:
        assert len(prompts) == 3
        return [" Old Lamp\n- a spaceship\n- garden gnomes\n", " big pens\n", " stone frog\n"]

    monkeypatch.setattr("lumos_core.views.writers.by_decoding.write_freely", say)
    (views,) = writer.write([[1, 2]])
    lamp, gnome, frog, pen = 8, 16, 17, 11
    assert views.future[0] == lamp
    assert views.future[2] == gnome
    assert views.future[1] not in (lamp, gnome, 1, 2)
    assert views.paraphrase[0] == pen
    assert views.counterfactual[-1] == frog


def test_a_large_model_is_asked_in_its_chat_template(
    llm: LocalLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    monkeypatch.setattr(llm.tokenizer, "chat_template", template)
    writer = WrittenViewWriter(
        llm, catalog_of(WORDS), space_of(WORDS), ViewSettings("films"), "trie", chat=True
    )
    (wishes,) = writer._wishes([[1, 2]])
    text = llm.tokenizer.decode(writer._prompt([1, 2], wishes[1]))
    question = prompts.QUESTIONS[prompts.PARAPHRASE].format(count=2)
    assert text.startswith("<user>Films, in order:\n- red pen\n- red desk\n\n" + question)
    assert text.endswith("<assistant>-")


# ---------------------------------------------------------------- modes
def test_auto_decides_by_size(folder: Path, monkeypatch: pytest.MonkeyPatch, llm: LocalLLM) -> None:
    choice = LLMConfig(str(folder))
    assert model_size(choice) == llm.parameters
    assert choose.choose_mode(RunConfig(), choice) == "score"
    monkeypatch.setattr(choose, "SMALL", llm.parameters - 1)
    assert choose.choose_mode(RunConfig(), choice) == "trie"
    assert choose.choose_mode(RunConfig(llm_mode="free"), choice) == "free"
    assert choose.choose_mode(RunConfig(llm_mode="score"), choice) == "score"


def test_modes_have_fingerprints_of_their_own() -> None:
    catalog, base = catalog_of(["a", "b"]), ViewSettings()
    prints = [writer_fingerprint("m", catalog, base)]
    prints += [written_fingerprint(mode, "m", catalog, base) for mode in ("trie", "free")]
    for changed in (base._replace(noun="films"), base._replace(seed=3)):
        prints.append(written_fingerprint("trie", "m", catalog, changed))
    prints.append(written_fingerprint("trie", "n", catalog, base))
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("mode", ["trie", "free"])
def test_factory_builds_stores_and_reuses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "cache"))
    config = RunConfig().replace(llm=str(folder), llm_mode=mode, view_items=2)
    fingerprint, factory = view_factory(config, NodeConfig(data="unused"), catalog_of(WORDS))
    with ViewStore(tmp_path / "views.sqlite") as store:
        views = build_views([[1, 2], [3]], factory, fingerprint, store)
        assert [len(view) for view in views[0]] == [2, 2, 2]
        again = build_views([[1, 2], [3]], lambda _: pytest.fail("reuse"), fingerprint, store)
    assert again == views
