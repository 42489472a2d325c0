"""When a machine uses the artefact beside its catalog, when it reads titles itself, when it
refuses; and that views outlive a catalog that grows."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_llm import save_tiny_llm

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.errors import ArtefactError
from lumos_core.views.build import BuildProgress
from lumos_core.views.llm.find import llm_config
from lumos_core.views.llm.load import LocalLLM, load_llm
from lumos_core.views.source import STORE, count_views, view_source
from lumos_core.views.titles import artefact_choice, artefact_reading, embeddings
from lumos_core.views.titles.artefact_choice import chosen_artefact, read_chosen, read_compared
from lumos_core.views.titles.artefact_reading import build_artefact, extend_artefact
from lumos_core.views.titles.catalog_artefact import CatalogArtefact
from lumos_core.views.titles.resumable import StageProgress
from lumos_core.views.titles.vectors import llm_title_vectors
from lumos_core.views.view import BY_CONTENT
from lumos_core.views.view_store import ViewStore
from lumos_core.views.writers.choose import view_factory

COLOURS = ("red", "blue", "green", "black", "white")
THINGS = ("pen", "desk lamp", "garden hose", "tin of paint")
TITLES = tuple(f"{colour} {thing}" for colour in COLOURS for thing in THINGS)
NEW = ("ink", "golden desk")
USERS = Sequences.from_lists([[1, 2, 3, 4, 5], [7, 3, 9, 20], [11, 12, 13]], ["u", "v", "w"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llm(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "cache"))
    return RunConfig().replace(llm=str(model), method="lumos")


@pytest.fixture
def llm(config: RunConfig) -> LocalLLM:
    return load_llm(llm_config(config))


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path / "data", TITLES)


@pytest.fixture
def made(config: RunConfig, llm: LocalLLM, catalog: Catalog) -> CatalogArtefact:
    """The artefact beside the catalog."""
    made = build_artefact(llm, llm_config(config), catalog, config.llm_noun)
    made.write(beside(catalog))
    return made


def catalog_in(folder: Path, titles: tuple[str, ...]) -> Catalog:
    """Each item's id follows from its title."""
    ids = tuple(title.replace(" ", "-") for title in titles)
    Catalog(ids, titles).write(folder / "catalog.tsv")
    return Catalog.read(folder / "catalog.tsv")


def beside(catalog: Catalog) -> Path:
    assert catalog.path is not None
    return catalog.path.with_name("catalog.safetensors")


def chosen(config: RunConfig, catalog: Catalog) -> Any:
    model = artefact_choice_model(config)
    return chosen_artefact(config, catalog, model, config.llm_noun)


def artefact_choice_model(config: RunConfig) -> str:
    from lumos_core.views.llm.find import model_fingerprint

    return model_fingerprint(llm_config(config))


# ---------------------------------------------------------------- which file
def test_the_file_beside_the_catalog_is_found(
    config: RunConfig, catalog: Catalog, made: CatalogArtefact
) -> None:
    found = chosen(config, catalog)
    assert found.path.samefile(beside(catalog))
    assert found.about == made.about
    assert chosen(config, Catalog(catalog.item_ids, catalog.titles)) is None  # from no file


def test_nodes_of_a_prepared_folder_find_the_one_of_the_folder(
    config: RunConfig, catalog: Catalog, made: CatalogArtefact, tmp_path: Path
) -> None:
    node = catalog_in(tmp_path / "data" / "node-0", TITLES)
    assert chosen(config, node) is None  # any two folders
    (tmp_path / "data" / "dataset.json").write_text("{}")
    assert chosen(config, node).path.samefile(beside(catalog))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c, _: c.replace(llm_noun="films seen"), "it is about 'products"),
        (lambda c, _: c.replace(llm_quantization="8bit"), "it is by the model"),
        (lambda c, cat: catalog_in(cat.path.parent, TITLES + NEW), "it lacks 2 titles"),
    ],
)
def test_a_file_that_does_not_fit_is_not_used_and_the_log_says_why(
    config: RunConfig,
    catalog: Catalog,
    made: CatalogArtefact,
    change: Callable[[RunConfig, Catalog], Any],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    new = change(config, catalog)
    if isinstance(new, Catalog):
        catalog, new = new, config
    assert chosen(new, catalog) is None
    assert f"catalog.safetensors is not used: {reason}" in caplog.text


def test_a_file_of_another_recipe_is_not_used(
    config: RunConfig, catalog: Catalog, made: CatalogArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefact_choice, "recipe", lambda: "another")
    assert chosen(config, catalog) is None


def test_a_run_that_names_a_digest_takes_no_other(
    config: RunConfig, catalog: Catalog, made: CatalogArtefact, llm: LocalLLM
) -> None:
    assert chosen(config.replace(catalog_artefact=made.about.digest), catalog) is not None
    with pytest.raises(ArtefactError, match=r"catalog\.safetensors.*catalog-artefact.*delete"):
        chosen(config.replace(catalog_artefact="0" * 64), catalog)
    grown = extend_artefact(made, llm, llm_config(config), Catalog(NEW, NEW))
    grown.write(beside(catalog))
    with pytest.raises(ArtefactError, match=f"found the digest {grown.about.digest}"):
        chosen(config.replace(catalog_artefact=made.about.digest), catalog)


def test_what_is_no_artefact_is_refused_and_not_passed_over(
    config: RunConfig, catalog: Catalog
) -> None:
    beside(catalog).write_bytes(b"what is this?" * 100)
    with pytest.raises(ArtefactError, match=r"catalog\.safetensors"):
        chosen(config, catalog)


# ---------------------------------------------------------------- reading it
def test_titles_are_compared_once_on_a_machine(
    config: RunConfig,
    catalog: Catalog,
    made: CatalogArtefact,
    llm: LocalLLM,
    tmp_path: Path,
) -> None:
    found = chosen(config, catalog)
    before = llm.read.tokens
    read_compared(found, llm, catalog, tmp_path / "cache")
    first = llm.read.tokens - before
    assert 0 < first < before / 2  # four of twenty titles
    read_compared(found, llm, catalog, tmp_path / "cache")
    assert llm.read.tokens - before == first
    read_compared(found, llm, catalog, tmp_path / "another machine's")
    assert llm.read.tokens - before > first


def test_a_file_that_lies_is_refused_again_and_again(
    config: RunConfig,
    catalog: Catalog,
    made: CatalogArtefact,
    llm: LocalLLM,
    tmp_path: Path,
) -> None:
    rows = made.rows._replace(meaning=np.roll(made.rows.meaning, 1, axis=0))
    keys = (key.tobytes() for key in made.keys)
    CatalogArtefact.sealed(made.about, made.basis, keys, rows).write(beside(catalog))
    for _ in range(2):
        with pytest.raises(ArtefactError, match="found for the title"):
            read_compared(chosen(config, catalog), llm, catalog, tmp_path / "cache")


def test_a_file_that_is_exchanged_in_between_is_refused(
    config: RunConfig, catalog: Catalog, made: CatalogArtefact, llm: LocalLLM
) -> None:
    found = chosen(config, catalog)
    other = build_artefact(llm, llm_config(config), catalog, "films seen")
    other.write(beside(catalog))
    with pytest.raises(ArtefactError, match=made.about.digest):
        read_chosen(found)


def test_start_vectors_come_from_the_file_without_the_model(
    config: RunConfig, catalog: Catalog, made: CatalogArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = llm_title_vectors(config, Catalog(catalog.item_ids, catalog.titles))
    monkeypatch.setattr(embeddings, "load_llm", None)  # whoever loads a model fails
    np.testing.assert_allclose(llm_title_vectors(config, catalog), own, atol=2e-3)


# ---------------------------------------------------------------- views
def views_of(
    config: RunConfig, node: NodeConfig, catalog: Catalog, users: Sequences
) -> tuple[Any, BuildProgress, set[str]]:
    """Views, how many were written, stages in which titles were read."""
    told: list[BuildProgress] = []
    stages: list[StageProgress] = []
    source = view_source(config, node, catalog, on_progress=told.append, on_stage=stages.append)
    return source(users), told[-1], {stage.stage for stage in stages}


def test_views_by_the_file_are_those_of_the_titles_read_here(
    config: RunConfig, catalog: Catalog, made: CatalogArtefact, tmp_path: Path
) -> None:
    node = NodeConfig(data=str(tmp_path / "data"), state=str(tmp_path / "state"))
    views, progress, stages = views_of(config, node, catalog, USERS)
    assert (progress.generated, stages) == (3, set())
    plain = NodeConfig(
        data=str(tmp_path / "data"), state=str(tmp_path / "own"), use_catalog_artefact=False
    )
    own, _, stages = views_of(config, plain, catalog, USERS)
    assert stages == {"titles", "priors"}
    for user, three in own.items():
        assert views[user].counterfactual == three.counterfactual
        assert views[user].paraphrase == three.paraphrase
        assert set(views[user].future) == set(three.future)


def test_an_owner_s_own_reading_is_as_if_there_were_no_file(
    config: RunConfig, catalog: Catalog, made: CatalogArtefact
) -> None:
    nowhere = Catalog(catalog.item_ids, catalog.titles)
    usual, _ = view_factory(config, NodeConfig(data="d"), nowhere)
    own, _ = view_factory(config, NodeConfig(data="d", use_catalog_artefact=False), catalog)
    by_file, _ = view_factory(config, NodeConfig(data="d"), catalog)
    assert own == usual
    assert by_file.startswith(BY_CONTENT)
    assert not own.startswith(BY_CONTENT)


@pytest.mark.parametrize("mode", ["score", "trie"])
def test_views_outlive_a_catalog_that_grows(
    config: RunConfig,
    catalog: Catalog,
    made: CatalogArtefact,
    llm: LocalLLM,
    tmp_path: Path,
    mode: str,
) -> None:
    config = config.replace(llm_mode=mode)
    node = NodeConfig(data=str(tmp_path / "data"), state=str(tmp_path / "state"))
    before, _, _ = views_of(config, node, catalog, USERS)
    grown = catalog_in(tmp_path / "data", NEW + TITLES)  # all indices are other ones
    extend_artefact(made, llm, llm_config(config), grown).write(beside(catalog))
    users = Sequences.from_lists(
        [[grown.index(catalog.item_id(i)) for i in USERS[u]] for u in range(len(USERS))],
        list(USERS.user_ids),
    )
    # by then u has bought one of the new items
    more = Sequences.concat([users, Sequences.from_lists([[*users[0].tolist(), 1]], ["x"])])
    after, progress, _ = views_of(config, node, grown, more)
    assert (progress.stored, progress.generated) == (3, 1)
    for user, views in before.items():
        for old, new in zip(views, after[user], strict=True):
            assert [grown.title(i) for i in new] == [catalog.title(i) for i in old]
    assert 1 not in after[3].future


def test_views_with_an_item_that_is_gone_are_written_again(
    config: RunConfig, catalog: Catalog, made: CatalogArtefact, tmp_path: Path
) -> None:
    node = NodeConfig(data=str(tmp_path / "data"), state=str(tmp_path / "state"))
    before, _, _ = views_of(config, node, catalog, USERS)
    bought = {int(i) for u in range(3) for i in USERS[u]}
    gone = next(i for i in before[0].future if i not in bought)
    kept = tuple(title for title in TITLES if title != catalog.title(gone))
    fewer = catalog_in(tmp_path / "data", kept)
    users = Sequences.from_lists(
        [[fewer.index(catalog.item_id(i)) for i in USERS[u]] for u in range(3)],
        list(USERS.user_ids),
    )
    missing = 3 - count_views(config, node, fewer, whole(users)).stored
    assert missing >= 1
    after, progress, _ = views_of(config, node, fewer, users)
    assert progress.generated == missing
    assert max(max(view) for three in after.values() for view in three) <= len(fewer)
    again, progress, _ = views_of(config, node, fewer, users)
    assert (again, progress.generated) == (after, 0)  # what was written again has taken its place
    with ViewStore(tmp_path / "state" / STORE) as store:
        assert len(store) == 3


def whole(users: Sequences) -> Sequences:
    """Users whose training histories these are: two more items, which are held out."""
    return Sequences.from_lists(
        [[*users[u].tolist(), 1, 2] for u in range(len(users))], list(users.user_ids)
    )


def test_a_lying_basis_writes_no_view_and_reads_no_other_title(
    config: RunConfig,
    catalog: Catalog,
    made: CatalogArtefact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = made.rows._replace(prior=made.rows.prior - 9)
    keys = (key.tobytes() for key in made.keys)
    about = replace(made.about, lumos="9.9.9")
    CatalogArtefact.sealed(about, made.basis, keys, rows).write(beside(catalog))
    read: list[str] = []
    plainly = artefact_reading.read_titles

    def noting(llm: LocalLLM, titles: Any, *others: Any) -> Any:
        read.extend(titles)
        return plainly(llm, titles, *others)

    monkeypatch.setattr(artefact_reading, "read_titles", noting)
    node = NodeConfig(data=str(tmp_path / "data"), state=str(tmp_path / "state"))
    with pytest.raises(ArtefactError, match="a prior that is 9"):
        views_of(config, node, catalog, USERS)
    assert len(read) == artefact_reading.SAMPLE
    with ViewStore(tmp_path / "state" / STORE) as store:
        assert len(store) == 0
