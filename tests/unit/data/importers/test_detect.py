import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from lumos_core.data.importers.detect import detect_format, load_source
from lumos_core.errors import DataError

Records = list[dict[str, object]]

REVIEWS_2014: Records = [
    {"reviewerID": "A1", "asin": "0001", "overall": 5.0, "unixReviewTime": 1393545600},
    {"reviewerID": "A2", "asin": "B2", "helpful": [0, 1], "unixReviewTime": 1393545601},
]
META_2014: Records = [
    {"asin": "0001", "title": 'Salt &amp; "pepper" it\'s\n here', "price": 1.5},
    {"asin": "B3", "title": "Nobody reviewed it"},
    {"asin": "B2", "categories": [["x"]]},
    {"asin": "0001", "title": "Published twice"},
]
REVIEWS_2023: Records = [
    {"user_id": "A1", "asin": "v", "parent_asin": "p", "title": "Nice", "timestamp": 1588687728923}
]
META_2023: Records = [{"main_category": "All", "title": "Brush", "parent_asin": "p"}]


def write_json(path: Path, records: Records, packed: bool = False) -> None:
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text) if packed else text)


# --- Amazon


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_amazon_2014(tmp_path: Path, literal: bool, packed: bool) -> None:
    suffix = ".json.gz" if packed else ".json"
    write_json(tmp_path / f"reviews_Beauty_5{suffix}", REVIEWS_2014, packed)
    meta = tmp_path / f"meta_Beauty{suffix}"
    write_json(meta, META_2014, packed)
    if literal:
        text = "".join(f"{record!r}\n" for record in META_2014).encode()
        meta.write_bytes(gzip.compress(text) if packed else text)
    assert detect_format(tmp_path) == "amazon"
    log = load_source(tmp_path)
    assert log.name == "reviews_Beauty_5"
    assert log.interactions.frame.rows() == [("A1", "0001", 1393545600), ("A2", "B2", 1393545601)]
    assert log.items.rows() == [("0001", 'Salt & "pepper" it\'s here'), ("B2", "")]
    assert not log.complete


def test_amazon_2023_from_the_file(tmp_path: Path) -> None:
    write_json(tmp_path / "All_Beauty.jsonl", REVIEWS_2023)
    write_json(tmp_path / "meta_All_Beauty.jsonl", META_2023)
    write_json(tmp_path / "meta_Toys.jsonl", META_2014)
    log = load_source(tmp_path / "All_Beauty.jsonl")
    assert log.interactions.frame.rows() == [("A1", "p", 1588687728923)]
    assert log.items.rows() == [("p", "Brush")]


def test_amazon_without_metadata_warns(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", REVIEWS_2014)
    log = load_source(tmp_path / "r.json")
    assert log.items["item_id"].to_list() == ["0001", "B2"]
    assert "no metadata" in log.warnings[0]


def test_amazon_ambiguous_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", REVIEWS_2014)
    write_json(tmp_path / "b.json", REVIEWS_2014)
    with pytest.raises(DataError, match=r"found a\.json, b\.json, expected one file with reviews"):
        load_source(tmp_path)
    (tmp_path / "b.json").unlink()
    write_json(tmp_path / "meta_x.json", META_2014)
    write_json(tmp_path / "meta_y.json", META_2014)
    with pytest.raises(DataError, match=r"found meta_x\.json, meta_y\.json"):
        load_source(tmp_path)
    chosen = load_source(tmp_path, items=tmp_path / "meta_y.json")
    assert chosen.items_source.endswith("meta_y.json")


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("{'asin': '0001', 'title': open('x')}\n", r"line 1: neither JSON nor a Python literal"),
        ("{'asin': '0001', 'title':\n", r"line 1: neither JSON nor a Python literal"),
        ("{'asin': '0001'}\n{'title': 'x'}\n", r"line 2: found no 'asin'"),
        ('{"asin": "0001"}\n{"asin": \n', r"line 2: not JSON"),
        ('{"id": "0001"}\n', r"line 1: missing key: neither 'asin' nor 'parent_asin'"),
    ],
)
def test_amazon_malformed_metadata(tmp_path: Path, meta: str, message: str) -> None:
    write_json(tmp_path / "r.json", REVIEWS_2014)
    (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(DataError, match=rf"meta\.json: {message}"):
        load_source(tmp_path)


def test_amazon_malformed_reviews(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_json(path, [*REVIEWS_2014, {"reviewerID": "A", "asin": "B", "unixReviewTime": "May"}])
    with pytest.raises(DataError, match="line 3: found 'May': time is not a number"):
        load_source(path, "amazon")


# --- MIND

BEHAVIORS = [
    ("1", "U1", "11/12/2019 2:00:00 PM", "N3 N1 N3", "N2-0 N4-1"),
    ("2", "U2", "11/11/2019 9:05:58 AM", "", "N1-1 N2-1"),
    ("3", "U1", "11/12/2019 9:00:00 AM", "N3 N1 N3", "N5-1 N1-0"),
]
NEWS = [
    (f"N{n}", "news", "sub", f' A "title" {n}', "", f"https://x/{n}", "[]", "[]") for n in "123"
]


def write_mind(folder: Path, behaviors: Sequence[tuple[str, ...]] = BEHAVIORS) -> None:
    for name, rows in (("behaviors.tsv", behaviors), ("news.tsv", NEWS)):
        (folder / name).write_text("".join("\t".join(row) + "\n" for row in rows))


def test_mind_histories_are_in_order(tmp_path: Path) -> None:
    write_mind(tmp_path)
    log = load_source(tmp_path)
    assert log.interactions.frame.rows() == [("U1", "N3", 0), ("U1", "N1", 1), ("U1", "N3", 2)]
    assert log.items.rows() == [(f"N{n}", f'A "title" {n}') for n in "123"]
    assert load_source(tmp_path / "behaviors.tsv").items.equals(log.items)


def test_mind_clicks_follow_in_the_order_of_time(tmp_path: Path) -> None:
    write_mind(tmp_path)
    frame = load_source(tmp_path, "mind", impression_clicks=True).interactions.frame
    assert frame.rows() == [
        *[("U1", item, n) for n, item in enumerate(["N3", "N1", "N3", "N5", "N4"])],
        *[("U2", item, n) for n, item in enumerate(["N1", "N2"])],
    ]


def test_mind_rows_are_placed_in_the_file(tmp_path: Path) -> None:
    write_mind(tmp_path)
    log = load_source(tmp_path, "mind", impression_clicks=True).interactions
    places = [log.place(row).rpartition(" ")[2] for row in range(len(log.frame))]
    assert places == ["1", "1", "1", "3", "1", "2", "2"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("4", "U3", "11/12/2019 2:00:00 PM", "N1"), "line 4: no shown, expected 5"),
        (("4", "", "11/12/2019 2:00:00 PM", "N1", "N1-0"), "line 4: no user_id"),
        (("4", "U3", "11/12/2019 2:00:00 PM", "N1", "N1-0", "x"), "line 4: found 6 fields"),
        (("4", "U3", "12.11.2019 14:00", "N1", "N1-0"), "line 4: found time '12.11.2019 14:00'"),
        (("4", "U3", "11/12/2019 2:00:00 PM", "N1", "N1-0 N2"), "line 4: found impression 'N2'"),
    ],
)
def test_mind_malformed(tmp_path: Path, row: tuple[str, ...], message: str) -> None:
    write_mind(tmp_path, [*BEHAVIORS, row])
    with pytest.raises(DataError, match=message):
        load_source(tmp_path, impression_clicks=True)


def test_mind_needs_its_news(tmp_path: Path) -> None:
    write_mind(tmp_path)
    (tmp_path / "news.tsv").unlink()
    with pytest.raises(DataError, match=r"news\.tsv: no such file"):
        load_source(tmp_path)


# --- RecBole

INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\t01\t4.0\t1.5e9\nu\t1\t2\t9\n"
)
ITEM = "item_id:token\tmovie_title:token_seq\tclass:token_seq\n01\tToy Story\tx\n1\tHeat\ty\n"


def test_recbole(tmp_path: Path) -> None:
    (tmp_path / "ml.inter").write_text(INTER)
    (tmp_path / "ml.item").write_text(ITEM)
    for source in (tmp_path, tmp_path / "ml.inter"):
        log = load_source(source)
        assert log.name == "ml"
        assert log.interactions.frame.rows() == [("u", "01", 1_500_000_000), ("u", "1", 9)]
        assert log.items.rows() == [("01", "Toy Story"), ("1", "Heat")]


def test_recbole_without_items_warns(tmp_path: Path) -> None:
    (tmp_path / "ml.inter").write_text(INTER)
    log = load_source(tmp_path)
    assert log.items.rows() == [("01", ""), ("1", "")]
    assert "no ml.item" in log.warnings[0]


def test_recbole_malformed(tmp_path: Path) -> None:
    (tmp_path / "ml.inter").write_text(INTER.replace("timestamp:float", "timestamp"))
    with pytest.raises(DataError, match="line 1: column 'timestamp' has no type"):
        load_source(tmp_path)
    (tmp_path / "other.inter").write_text(INTER)
    with pytest.raises(DataError, match=r"found ml\.inter, other\.inter"):
        load_source(tmp_path)


# --- plain tables and detection


def test_table_folder_and_file(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user,item,time\nu,01,3\n")
    assert "no list of items" in load_source(tmp_path).warnings[0]
    (tmp_path / "catalog.tsv").write_text("item_id\ttitle\n01\tOne\n")
    for source in (tmp_path, tmp_path / "interactions.csv"):
        log = load_source(source)
        assert log.interactions.frame.rows() == [("u", "01", 3)]
        assert log.items.rows() == [("01", "One")]
        assert not log.warnings
    (tmp_path / "items.csv").write_text("item_id,title\n01,Ein\n")
    assert load_source(tmp_path).items.rows() == [("01", "Ein")]


def test_json_lines_that_are_no_amazon_reviews_are_a_table(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"user_id": "u", "item_id": 7, "timestamp": 3}\n')
    assert detect_format(path) == "table"
    assert load_source(path).interactions.frame.rows() == [("u", "7", 3)]


def test_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no file; expected interactions\.\(tsv"):
        load_source(tmp_path)
    with pytest.raises(DataError, match="nope: no such file or folder"):
        load_source(tmp_path / "nope")
