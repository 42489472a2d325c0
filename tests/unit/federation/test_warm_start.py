"""Training that begins with the model of an earlier run, also after the catalog has grown."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lumos_core import Catalog, RunConfig, load_model, simulate
from lumos_core.data import Sequences
from lumos_core.errors import ModelError
from lumos_core.federation.warm_start import check_start, grown, start_params
from lumos_core.learning.model import get_params
from lumos_core.learning.parameters import ITEM_BIAS, ITEM_TABLE
from lumos_core.learning.title_start import initial_params
from lumos_core.runs.history import read_history

THINGS = [f"{colour} {thing}" for thing in ("lamp", "cup", "chair") for colour in ["red", "blue"]]
CATALOG = Catalog(tuple(f"i{n}" for n in range(len(THINGS))), tuple(THINGS))
GROWN = Catalog((*CATALOG.item_ids, "new1", "new2"), (*CATALOG.titles, "green lamp", "old cup"))
CONFIG = RunConfig(method="fedavg-plus", rounds=2, dim=8, heads=1, max_len=6)
SHOPS = [Sequences.from_lists([[1, 3, 5, 2], [2, 4, 6, 1]]), Sequences.from_lists([[5, 6, 1, 3]])]


@dataclass(frozen=True)
class Trained:
    run: Path

    @property
    def config(self) -> RunConfig:
        return CONFIG.replace(start_model=str(self.run))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    run = tmp_path_factory.mktemp("first") / "run"
    simulate(CONFIG, CATALOG, SHOPS, run_dir=run)
    return Trained(run)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_without_a_start_model_a_run_begins_with_titles() -> None:
    assert same(start_params(CONFIG, CATALOG), initial_params(CONFIG, CATALOG))


def test_a_run_begins_with_the_best_model_of_another(trained: Trained) -> None:
    model = get_params(load_model(trained.run, CATALOG))
    assert same(start_params(trained.config, CATALOG), model)


def test_its_first_evaluation_is_that_of_the_start_model(trained: Trained, tmp_path: Path) -> None:
    simulate(trained.config, CATALOG, SHOPS, run_dir=tmp_path / "second")
    found = {}
    for run in (trained.run, tmp_path / "second"):
        for event in read_history(run / "history.jsonl"):
            if event["event"] == "evaluation" and event["split"] == "validation":
                found[run.name, event["round"]] = event["ndcg@20"]
    best = max(value for (run, _), value in found.items() if run == "run")
    assert found["second", 0] == pytest.approx(best)


def test_a_run_that_is_resumed_does_without_its_start_model(
    trained: Trained, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    simulate(trained.config.replace(rounds=1), CATALOG, SHOPS, run_dir=run)
    gone = CONFIG.replace(start_model=str(tmp_path / "gone"))
    check_start(gone, CATALOG, run)
    result = simulate(gone, CATALOG, SHOPS, run_dir=run, resume=True)
    assert result.rounds == 2


def test_new_items_are_like_those_with_the_nearest_titles(trained: Trained) -> None:
    before = get_params(load_model(trained.run, CATALOG))
    after = start_params(trained.config, GROWN)
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


def test_training_goes_on_with_the_grown_catalog(trained: Trained, tmp_path: Path) -> None:
    shops = [Sequences.from_lists([[1, 3, 7, 2], [2, 8, 6, 1]]), SHOPS[1]]
    result = simulate(trained.config, GROWN, shops, run_dir=tmp_path / "run")
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
    trained: Trained, ids: tuple[str, ...], titles: tuple[str, ...]
) -> None:
    with pytest.raises(ModelError, match="is not the beginning of this one"):
        start_params(trained.config, Catalog(ids, titles))


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"dim": 16}, "dim = 8"), ({"layers": 1}, "layers = 2"), ({"item_bias": "none"}, "item-bias")],
)
def test_a_model_of_another_shape_is_refused(
    trained: Trained, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(ModelError, match=f"{named}.*--from"):
        start_params(trained.config.replace(**changes), CATALOG)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing"):
        check_start(CONFIG.replace(start_model=str(tmp_path / "nothing")), CATALOG, tmp_path)


def test_the_place_of_the_start_model_is_in_no_export() -> None:
    config = CONFIG.replace(start_model="/srv/secret/place")
    assert "/srv/secret/place" not in str(config.without_paths())
