import hashlib
import re
from pathlib import Path

import pytest

from lumos_core.data import Catalog
from lumos_core.data.catalog import (
    FINGERPRINT_PATTERN,
    differing_versions,
    short_fingerprint,
)
from lumos_core.errors import DataError

SMALL = Catalog(("007", "7", "x y"), ("Tea", 'A "quoted" title', "Ünïcode"))


def test_indices_start_at_one_and_ids_are_text() -> None:
    assert len(SMALL) == 3
    assert [SMALL.index(i) for i in ("007", "7", "x y")] == [1, 2, 3]
    assert SMALL.item_id(1) == "007"
    assert SMALL.title(2) == 'A "quoted" title'


@pytest.mark.parametrize("index", [0, 4, -1])
def test_padding_and_what_lies_outside_has_no_title(index: int) -> None:
    with pytest.raises(IndexError, match=r"1\.\.3"):
        SMALL.title(index)


def test_unknown_item() -> None:
    with pytest.raises(DataError, match=r"'07' is not in the catalog \(3 items\)"):
        SMALL.index("07")


def test_round_trip_and_fingerprint(tmp_path: Path) -> None:
    SMALL.write(tmp_path / "catalog.tsv")
    again = Catalog.read(tmp_path / "catalog.tsv")
    assert again == SMALL
    assert again.fingerprint == SMALL.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.tsv"]


def test_fingerprint_sees_order_ids_and_titles() -> None:
    others = [
        Catalog(SMALL.item_ids[::-1], SMALL.titles[::-1]),
        Catalog(SMALL.item_ids, (*SMALL.titles[:2], "Unicode")),
        Catalog(("07", *SMALL.item_ids[1:]), SMALL.titles),
    ]
    assert len({c.fingerprint for c in [SMALL, *others]}) == 4


def test_fingerprint_has_a_version_and_never_changes_by_itself() -> None:
    """Not with Python, not with Unicode: this text is compared between machines."""
    assert SMALL.fingerprint == "2:357b7270f62bc4cda6ecb0bebc17b4571c7402faea61e1d719ae36796ad29e0f"
    assert re.fullmatch(FINGERPRINT_PATTERN, SMALL.fingerprint)


def test_fingerprints_of_the_first_version_are_recognised() -> None:
    """Files of models and runs that older versions wrote are of these items all the same."""
    assert SMALL.is_known_as(SMALL.fingerprint)
    assert SMALL.is_known_as("5119c3c6c027f8dd0cc73d3d7066d4b413dca2eced9cd6088925cc35d6cc88b7")
    joined = Catalog(("a", "b"), ("می\u200cخواهم", "B"))
    old = Catalog(("a", "b"), ("می خواهم", "B"))  # what the first version made of it
    for text in ("a\tمی خواهم\nb\tB\n", "a\tمی\u200cخواهم\nb\tB\n"):
        assert joined.is_known_as(hashlib.sha256(text.encode()).hexdigest())
    assert joined.fingerprint != old.fingerprint
    assert not joined.is_known_as(old.fingerprint)
    turned = Catalog(("b", "a"), ("B", "می\u200cخواهم"))
    assert not turned.is_known_as(hashlib.sha256("a\tمی خواهم\nb\tB\n".encode()).hexdigest())
    assert not SMALL.is_known_as("3:" + SMALL.fingerprint[2:])


def test_messages_tell_other_versions_from_other_catalogs() -> None:
    assert short_fingerprint("2:" + "ab" * 32) == "2:abababababab"
    assert short_fingerprint("ab" * 32) == "abababababab"
    assert differing_versions("2:" + "0" * 64, "2:" + "1" * 64) == ""
    assert differing_versions("0" * 64, "1" * 64) == ""
    assert "of versions 1 and 2 and cannot be compared" in differing_versions(
        "0" * 64, "2:" + "0" * 64
    )
    assert "of versions unknown and 2" in differing_versions("None", "2:" + "0" * 64)


def test_windows_line_ends_and_byte_order_mark_are_the_same_catalog(tmp_path: Path) -> None:
    path = tmp_path / "catalog.tsv"
    path.write_bytes(b"\xef\xbb\xbfitem_id\ttitle\r\n007\tTea\r\n7\tA  cup\r\n")
    assert Catalog.read(path) == Catalog(("007", "7"), ("Tea", "A cup"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id\tname\n1\ta\n", r"line 1: found header 'id\\tname', expected 'item_id\\ttitle'"),
        ("item_id\ttitle\n", "only a header, expected at least one item"),
        ("item_id\ttitle\n1\ta\n2\n", "line 3: found 1 fields, expected 2"),
        ("item_id\ttitle\n1\ta\tb\n", "line 2: found 3 fields, expected 2"),
        ("item_id\ttitle\n1\t\n", "line 2: empty title"),
        ("item_id\ttitle\n\ta\n", "line 2: empty item_id"),
        ("item_id\ttitle\n1\ta\n2\tb\n1\tc\n", "line 4: duplicate item id '1', first on line 2"),
        ("", "the file is empty"),
        ('item_id\ttitle\n1\t"12"" plate"\n', 'line 2: found title \'"12"" plate"\', quoted as'),
    ],
)
def test_malformed_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "catalog.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        Catalog.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "titles", "message"),
    [
        ((), (), "no item"),
        (("1", "1"), ("a", "b"), "duplicate item id '1'"),
        (("1",), ("a", "b"), "1 ids but 2 titles"),
        (("1\t",), ("a",), "item id"),
        (("1",), ("a\nb",), "expected text on one line"),
        (("1",), ("",), "title ''"),
        (("1",), ('"12"" plate"',), "quoted as in CSV"),
    ],
)
def test_impossible_catalogs(ids: tuple[str, ...], titles: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Catalog(ids, titles)


def test_a_catalog_knows_its_file_and_is_the_same_without_it(tmp_path: Path) -> None:
    catalog = Catalog(("a", "b"), ("red lamp", "tea pot"))
    catalog.write(tmp_path / "catalog.tsv")
    read = Catalog.read(tmp_path / "catalog.tsv")
    assert (read.path, catalog.path) == (tmp_path / "catalog.tsv", None)
    assert read == catalog
    assert hash(read) == hash(catalog)
    assert repr(read) == repr(catalog)
