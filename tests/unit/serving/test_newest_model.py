"""A newer model and newer data take the place of the old; what is broken does not."""

import logging
import os
import threading
from pathlib import Path

import pytest
from serving_support import CATALOG, USERS, expected, keep, write_node, write_users

from lumos_core.data import Catalog
from lumos_core.errors import DataError, ModelError
from lumos_core.recommend.model_files import KEPT_FINAL
from lumos_core.serving.newest_model import Newest

LOG = "lumos_core.serving.newest_model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_node(tmp_path / "node")


def newest(folder: Path, model: Path | None = None) -> Newest:
    return Newest(folder, folder / "state", model)


def looks(found: Newest) -> None:
    """A change is read at the second look: by then it has stayed the same."""
    found.look()
    found.look()


def best(found: Newest, user: str = "u3") -> list[str]:
    served = found.served
    history = served.histories.of(user)
    assert served.recommender is not None
    assert history is not None
    return [r.item_id for r in served.recommender.for_user(history)]


def test_it_begins_with_what_the_node_has(folder: Path) -> None:
    path = keep(folder, seed=1)
    found = newest(folder)
    assert found.served.version is not None
    assert (found.served.version.path, found.served.version.card.round) == (path, 1)
    assert best(found) == expected(path, USERS["u3"])


def test_a_node_without_a_model_is_waited_for(folder: Path, caplog) -> None:
    found = newest(folder)
    assert found.served.version is None
    assert "has not kept a model yet" in caplog.text
    path = keep(folder, seed=2)
    looks(found)
    assert best(found) == expected(path, USERS["u3"])
    assert (found.counts.loaded, found.counts.refused, found.counts.withdrawn) == (1, 0, 0)


def test_a_newer_model_is_used_and_the_final_one_preferred(folder: Path) -> None:
    first = keep(folder, seed=1)
    found, lists = newest(folder), []
    for seed, name in ((2, first.name), (3, Path(KEPT_FINAL).name), (4, first.name)):
        before = found.served
        path = keep(folder, seed, f"model/{name}")
        found.look()
        assert found.served == before, "it may still be changing"
        found.look()
        lists.append(best(found))
        assert (lists[-1] == expected(path, USERS["u3"])) == (seed < 4)
    assert lists[0] != lists[1] == lists[2]
    assert found.counts.loaded == 3  # the fourth is not the one to use


def test_nothing_is_read_again_if_nothing_has_changed(folder: Path) -> None:
    keep(folder, seed=1)
    found = newest(folder)
    before = found.served.recommender
    for _ in range(3):
        looks(found)
    assert found.served.recommender is before
    assert found.counts.loaded == 1


@pytest.mark.parametrize("damage", ["cut", "catalog", "empty", "nan"])
def test_a_broken_model_is_refused_by_name(folder: Path, caplog, damage: str) -> None:
    path = keep(folder, seed=1)
    found = newest(folder)
    before, served = best(found), found.served
    if damage == "catalog":
        other = Catalog(CATALOG.item_ids[1:], CATALOG.titles[1:])
        keep(folder, seed=2, catalog=other)
    elif damage == "nan":
        from safetensors.numpy import load_file

        from lumos_core.recommend.model_files import read_card, save_model

        params = load_file(path)
        params["norm.bias"][0] = float("nan")
        save_model(path, params, read_card(path))
    else:
        whole = path.read_bytes()
        path.write_bytes(whole[:-100] if damage == "cut" else b"")
    for _ in range(3):
        looks(found)
    assert found.served == served
    assert best(found) == before
    assert found.counts.refused == 1
    refusals = [r.getMessage() for r in caplog.records if "model refused" in r.getMessage()]
    assert len(refusals) == 1, "it is said once"
    assert str(path) in refusals[0]
    assert "the one from before is used" in refusals[0]
    good = keep(folder, seed=3)
    looks(found)
    assert best(found) == expected(good, USERS["u3"])


def test_a_model_that_is_removed_is_withdrawn(folder: Path, caplog) -> None:
    path = keep(folder, seed=1)
    found = newest(folder)
    path.unlink()
    looks(found)
    assert found.served.recommender is None
    assert found.served.version is None
    assert found.counts.withdrawn == 1
    assert "no model" in caplog.text
    keep(folder, seed=1)
    looks(found)
    assert found.served.recommender is not None


def test_histories_are_read_again_and_users_can_go(folder: Path) -> None:
    keep(folder, seed=1)
    found = newest(folder)
    before = found.served.recommender
    write_users(folder, {"u3": [5, 6], "new": [1]})
    looks(found)
    of = found.served.histories.of
    assert of("new") is not None
    assert of("secret-user-7") is None
    history = of("u3")
    assert history is not None
    assert history.tolist() == [5, 6]
    assert found.served.recommender is before


def test_histories_that_cannot_be_used_are_not_quoted(folder: Path, caplog) -> None:
    keep(folder, seed=1)
    found = newest(folder)
    before = found.served
    with (folder / "interactions.tsv").open("a") as file:
        file.write("secret-user-7\tsecret-item\t1\n")
    with caplog.at_level(logging.INFO, LOG):
        looks(found)
    assert found.served == before
    assert "changed, and cannot be used" in caplog.text
    texts = [record.getMessage() for record in caplog.records]
    assert not any("secret" in text for text in texts)


def test_another_catalog_is_used_together_with_its_model(folder: Path) -> None:
    keep(folder, seed=1)
    found = newest(folder)
    before = found.served
    titles = ("another title", *CATALOG.titles[1:])
    grown = Catalog(CATALOG.item_ids, titles)
    grown.write(folder / "catalog.tsv")
    for _ in range(3):
        looks(found)
    assert found.served == before, "there is no model of it"
    assert found.counts.refused == 1
    keep(folder, seed=2, catalog=grown)
    looks(found)
    assert found.served.histories.catalog.title(1) == "another title"
    assert found.served.recommender is not None
    assert found.served.recommender.catalog is found.served.histories.catalog


def test_a_model_that_is_named_must_be_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        newest(folder, tmp_path / "missing")
    path = keep(folder, seed=1)
    moved = tmp_path / "model.safetensors"
    os.replace(path, moved)
    for place in (moved, tmp_path):
        assert best(newest(folder, place)) == expected(moved, USERS["u3"])


def test_data_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        newest(tmp_path / "missing")


def test_the_watch_survives_what_nobody_expected(folder: Path, caplog, monkeypatch) -> None:
    found, ended, tries = newest(folder), threading.Event(), []

    def look() -> None:
        tries.append(1)
        if len(tries) == 3:
            ended.set()
        raise RuntimeError("secret-user-7")

    monkeypatch.setattr(found, "look", look)
    found.watch(ended, 0.001)
    assert len(tries) == 3
    assert "secret" not in " ".join(record.getMessage() for record in caplog.records)
