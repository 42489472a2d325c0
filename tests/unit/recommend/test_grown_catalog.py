"""Training that goes on with a catalog that has grown since the model was trained."""

from pathlib import Path

import numpy as np
import pytest

from lumos_core import Catalog, RunConfig, load_model, simulate
from lumos_core.data import Sequences
from lumos_core.data.catalog_versions import Lineage
from lumos_core.errors import ModelError
from lumos_core.federation.warm_start import Start
from lumos_core.learning.model import get_params
from lumos_core.learning.parameters import ITEM_BIAS, ITEM_TABLE
from lumos_core.recommend.grown_catalog import grown

THINGS = [f"{colour} {thing}" for thing in ("lamp", "cup", "chair") for colour in ["red", "blue"]]
CATALOG = Catalog(tuple(f"i{n}" for n in range(len(THINGS))), tuple(THINGS))
GROWN = Catalog((*CATALOG.item_ids, "new1", "new2"), (*CATALOG.titles, "green lamp", "old cup"))
CONFIG = RunConfig(method="fedavg-plus", rounds=2, dim=8, heads=1, max_len=6, item_bias="learned")
SHOPS = [Sequences.from_lists([[1, 3, 5, 2], [2, 4, 6, 1]]), Sequences.from_lists([[5, 6, 1, 3]])]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("first") / "run"
    simulate(CONFIG, CATALOG, SHOPS, run_dir=run)
    return run


def test_new_items_are_like_those_with_the_nearest_titles(trained: Path) -> None:
    before = get_params(load_model(trained, CATALOG))
    after = Start.read(trained, CONFIG, GROWN).params
    assert np.array_equal(after[ITEM_TABLE][:7], before[ITEM_TABLE])
    assert after[ITEM_TABLE].shape == (9, 8)
    assert after[ITEM_BIAS].shape == (9,)
    lamps, others = before[ITEM_TABLE][1:3], before[ITEM_TABLE][3:]

    def distance(row: np.ndarray, rows: np.ndarray) -> float:
        return float(np.linalg.norm(rows - row, axis=1).min())

    assert distance(after[ITEM_TABLE][7], lamps) < distance(after[ITEM_TABLE][7], others)


def test_a_new_item_with_a_known_title_has_nearly_its_row() -> None:
    params = {ITEM_TABLE: np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)}
    params[ITEM_TABLE][0] = 0
    twin = Catalog((*CATALOG.item_ids, "again"), (*CATALOG.titles, CATALOG.titles[0]))
    row = grown(params, 6, twin)[ITEM_TABLE][7]
    closest = np.linalg.norm(params[ITEM_TABLE][1:] - row, axis=1).argmin()
    assert closest == 0


def test_a_model_of_a_small_catalog_grows_too() -> None:
    one = {ITEM_TABLE: np.array([[0.0, 0.0], [1.0, 2.0]], np.float32)}
    catalog = Catalog(("a", "b"), ("lamp", "tea pot"))
    assert grown(one, 1, catalog)[ITEM_TABLE][2].tolist() == [1.0, 2.0]


def test_training_goes_on_with_the_grown_catalog(trained: Path, tmp_path: Path) -> None:
    shops = [Sequences.from_lists([[1, 3, 7, 2], [2, 8, 6, 1]]), SHOPS[1]]
    result = simulate(CONFIG, GROWN, shops, run_dir=tmp_path / "run", start=trained)
    assert result.params[ITEM_TABLE].shape == (9, 8)
    load_model(tmp_path / "run", GROWN)


@pytest.mark.parametrize(
    ("ids", "titles"),
    [
        ((*GROWN.item_ids[1:], "i0"), (*GROWN.titles[1:], "red lamp")),  # another order
        (CATALOG.item_ids[:5], CATALOG.titles[:5]),  # shorter
        (CATALOG.item_ids, ("red lamps", *CATALOG.titles[1:])),  # another title
    ],
)
def test_a_catalog_that_renumbers_items_is_refused(
    trained: Path, ids: tuple[str, ...], titles: tuple[str, ...]
) -> None:
    with pytest.raises(ModelError, match="has not grown from it"):
        Start.read(trained, CONFIG, Catalog(ids, titles))


def test_a_model_of_an_earlier_catalog_can_be_used_until_the_next_one_comes(trained: Path) -> None:
    before, now = load_model(trained, CATALOG), load_model(trained, GROWN)
    assert (before.shape.num_items, now.shape.num_items) == (6, 8)
    for name, array in get_params(before).items():
        assert np.array_equal(get_params(now)[name][: len(array)], array), name
    with pytest.raises(ModelError, match="has not grown from it"):
        load_model(trained, Catalog(GROWN.item_ids[1:], GROWN.titles[1:]))


CORRECTED = Catalog(GROWN.item_ids, ("RED lamp", *GROWN.titles[1:]))


def versions(folder: Path) -> Catalog:
    """The third version of a catalog, with the chain beside it: first it grew, then a title was
    corrected."""
    chain, _ = Lineage.of(CATALOG).extended(GROWN)
    chain, _ = chain.extended(CORRECTED)
    chain.write(folder / "catalog.tsv")
    return Catalog.read(folder / "catalog.tsv")


def test_a_corrected_title_keeps_its_row(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'lumos catalog extend'"):
        Start.read(trained, CONFIG, CORRECTED)
    catalog = versions(tmp_path)
    before = get_params(load_model(trained, CATALOG))
    start = Start.read(trained, CONFIG, catalog)
    assert np.array_equal(start.params[ITEM_TABLE][:7], before[ITEM_TABLE])
    assert start.card.catalog == catalog.fingerprint
    assert load_model(trained, catalog).shape.num_items == 8
    result = simulate(CONFIG, catalog, SHOPS, run_dir=tmp_path / "run", start=trained)
    assert result.params[ITEM_TABLE].shape == (9, 8)


def test_a_correction_alone_keeps_all_rows(trained: Path, tmp_path: Path) -> None:
    chain, grown_by = Lineage.of(CATALOG).extended(
        Catalog(CATALOG.item_ids, ("RED lamp", *CATALOG.titles[1:]))
    )
    assert (grown_by.added, len(grown_by.corrected)) == (0, 1)
    chain.write(tmp_path / "catalog.tsv")
    catalog = Catalog.read(tmp_path / "catalog.tsv")
    params = Start.read(trained, CONFIG, catalog).params
    before = get_params(load_model(trained, CATALOG))
    assert all(np.array_equal(params[name], before[name]) for name in before)


def test_a_grown_start_is_kept_for_the_grown_catalog(trained: Path, tmp_path: Path) -> None:
    start = Start.read(trained, CONFIG, GROWN)
    start.keep(tmp_path)
    again = Start.read(tmp_path / "start.safetensors", CONFIG, GROWN)
    assert again.facts == start.facts
    assert start.facts.digest != Start.read(trained, CONFIG, CATALOG).facts.digest
