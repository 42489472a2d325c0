"""Versions of a catalog: what may change, what is refused by name, and that a chain cannot lie."""

import json
import random
from pathlib import Path

import pytest

from lumos_core.data.catalog import Catalog
from lumos_core.data.catalog_versions import Lineage
from lumos_core.data.layout import CATALOG_VERSIONS
from lumos_core.errors import DataError

OLD = Catalog(("B7", "A1", "C3"), ("red lamp", "paper chian", "tea pot"))


def changed(ids: str, titles: str) -> Catalog:
    return Catalog(tuple(ids.split()), tuple(titles.split(",")))


def test_items_are_added_and_titles_corrected() -> None:
    new = changed("B7 A1 C3 D4", "red lamp,paper chain,tea pot,cake tin")
    chain, grown = Lineage.of(OLD).extended(new)
    assert grown == (2, 1, (("A1", "paper chian", "paper chain"),))
    assert [v.items for v in chain.versions] == [3, 4]
    assert chain.versions[1].parent == OLD.fingerprint
    again, nothing = chain.extended(new)
    assert (again, nothing.number, nothing.added, nothing.corrected) == (chain, 2, 0, ())


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (changed("A1 B7 C3", "a,b,c"), r"item 'B7' is number 2, expected 1"),
        (changed("B7 X A1 C3", "a,b,c,d"), r"item 'A1' is number 3, expected 2"),
        (changed("B7 A1 D4", "a,b,c"), r"item 'C3' \(number 3 of .*\) is missing"),
        (changed("B7 A1", "a,b"), r"item 'C3' .* is missing"),
    ],
)
def test_what_moves_or_removes_an_item_is_refused_by_name(new: Catalog, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Lineage.of(OLD).extended(new)


def test_every_version_is_found_again_whatever_was_corrected(tmp_path: Path) -> None:
    """Ten versions, each with new items and corrections, some of them of the same title twice."""
    draw = random.Random(3)
    ids, titles = list(OLD.item_ids), list(OLD.titles)
    chain, past = Lineage.of(OLD), [OLD]
    for n in range(10):
        for _ in range(3):
            titles[draw.randrange(len(titles))] = f"title {draw.randrange(1000)}"
        ids.append(f"n{n}")
        titles.append(f"new {n}")
        chain, _ = chain.extended(Catalog(tuple(ids), tuple(titles)))
        past.append(chain.catalog)
    chain.write(tmp_path / "catalog.tsv")
    found = Lineage.of(Catalog.read(tmp_path / "catalog.tsv"))
    assert found.versions == chain.versions
    for n, catalog in enumerate(past[:-1]):
        earlier = found.earlier(catalog.fingerprint)
        assert earlier == (n + 1, 11, catalog.fingerprint, len(catalog))
        assert found.descends_from(len(catalog), catalog.fingerprint)
        assert not found.descends_from(len(catalog) + 1, catalog.fingerprint)
    assert found.earlier(found.catalog.fingerprint) is None, "it is the newest"
    assert found.earlier("2:" + "0" * 64) is None


def test_a_catalog_that_was_put_back_has_the_versions_up_to_it(tmp_path: Path) -> None:
    """As after a kill between the two files, too."""
    chain, _ = Lineage.of(OLD).extended(changed("B7 A1 C3 D4", "red lamp,chain,tea pot,tin"))
    chain.write(tmp_path / "catalog.tsv")
    OLD.write(tmp_path / "catalog.tsv")
    found = Lineage.of(Catalog.read(tmp_path / "catalog.tsv"))
    assert [v.items for v in found.versions] == [3]
    other, _ = found.extended(changed("B7 A1 C3 E5", "red lamp,paper chian,tea pot,egg"))
    other.write(tmp_path / "catalog.tsv")
    assert len(Lineage.of(Catalog.read(tmp_path / "catalog.tsv")).versions) == 2


@pytest.mark.parametrize("damage", ["parent", "corrected", "items", "other catalog", "json"])
def test_a_chain_that_is_wrong_is_not_believed(tmp_path: Path, damage: str) -> None:
    new = changed("B7 A1 C3 D4", "red lamp,paper chain,tea pot,cake tin")
    chain, _ = Lineage.of(OLD).extended(new)
    chain.write(tmp_path / "catalog.tsv")
    path = tmp_path / CATALOG_VERSIONS
    file = json.loads(path.read_text())
    if damage == "parent":
        file["versions"][1]["parent"] = "2:" + "0" * 64
    elif damage == "corrected":
        file["versions"][1]["corrected"] = {"A1": "something else"}
    elif damage == "items":
        file["versions"][0]["items"] = 2
    elif damage == "other catalog":
        Catalog(("Z",), ("z",)).write(tmp_path / "catalog.tsv")
    path.write_text("{" if damage == "json" else json.dumps(file))
    with pytest.raises(DataError, match=r"catalog\.versions\.json"):
        Lineage.of(Catalog.read(tmp_path / "catalog.tsv")).earlier(OLD.fingerprint)
