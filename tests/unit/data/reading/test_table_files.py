import gzip
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from lumos_core.data.interactions import check_known_items, read_interactions, read_items
from lumos_core.data.reading.columns import Columns
from lumos_core.errors import DataError

ROWS = [("u1", "007", 10), ("u1", "7", 11), ("u2", "007", 5)]


def write_tsv(path: Path) -> None:
    path.write_text(
        "user_id\titem_id\ttimestamp\n" + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in ROWS)
    )


def write_csv(path: Path) -> None:
    path.write_text("time,user,item\n" + "".join(f'{t},"{u}",{i}\n' for u, i, t in ROWS))


def write_jsonl(path: Path) -> None:
    records = [{"userId": u, "x": [1], "itemId": i, "timestamp": t} for u, i, t in ROWS]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_parquet(path: Path) -> None:
    pl.DataFrame(ROWS, schema=["user_id", "item_id", "position"], orient="row").write_parquet(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("log.tsv", write_tsv),
        ("log.csv", write_csv),
        ("log.jsonl", write_jsonl),
        ("log.parquet", write_parquet),
    ],
)
def test_every_format_gives_the_same_rows(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    path = tmp_path / name
    write(path)
    frame = read_interactions(path).frame
    assert frame.rows() == ROWS
    assert frame.schema == {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
    if not name.endswith("parquet"):
        packed = tmp_path / f"{name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert read_interactions(packed).frame.equals(frame)


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("who,what,when,item_id\na,b,3,wrong\n")
    frame = read_interactions(path, Columns("who", "what", "when")).frame
    assert frame.rows() == [("a", "b", 3)]


def test_the_parent_item_is_preferred_to_the_variant(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"user_id": "a", "asin": "v", "parent_asin": "p", "timestamp": 1}\n')
    assert read_interactions(path).frame.rows() == [("a", "p", 1)]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["1", " 2 "], [1, 2]),
        (["1e9", "2.0"], [1_000_000_000, 2]),
        (["1.5", "2"], [1.5, 2.0]),
        (["9007199254740993", "-1"], [9007199254740993, -1]),
    ],
)
def test_times_of_text(tmp_path: Path, times: list[str], expected: list[float]) -> None:
    path = tmp_path / "log.tsv"
    path.write_text("user\titem\ttime\n" + "".join(f"u\ti\t{t}\n" for t in times))
    assert read_interactions(path).frame["timestamp"].to_list() == expected


def test_dates_of_parquet_become_unix_time(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    when = [datetime(1970, 1, 2), datetime(1970, 1, 1, 0, 1)]
    pl.DataFrame({"user_id": [1, 1], "item_id": [7, 8], "timestamp": when}).write_parquet(path)
    assert read_interactions(path).frame.rows() == [("1", "7", 86_400), ("1", "8", 60)]


def test_quotes_in_tsv_are_text_and_in_csv_are_quotes(tmp_path: Path) -> None:
    (tmp_path / "items.tsv").write_text('item_id\ttitle\n1\t12" plate, "blue"\n2\t"x\n')
    assert read_items(tmp_path / "items.tsv").frame["title"].to_list() == [
        '12" plate, "blue"',
        '"x',
    ]
    (tmp_path / "items.csv").write_text('item_id,title\n1,"12"" plate,\n\tblue"\n2,x\n')
    assert read_items(tmp_path / "items.csv").frame["title"].to_list() == ['12" plate, blue', "x"]


def test_the_only_other_column_is_the_title(tmp_path: Path) -> None:
    path = tmp_path / "items.tsv"
    path.write_text("item_id\tbrand_category\n1\ta > b\n2\t\n")
    assert read_items(path).frame.rows() == [("1", "a > b"), ("2", "")]
    assert "from the only other column, 'brand_category'" in read_items(path).warnings[0]
    path.write_text("item_id\tadded\n1\t2014-01-02\n2\t\n")
    assert read_items(path).frame.rows() == [("1", ""), ("2", "")]
    assert "column 'added' holds numbers, no titles" in read_items(path).warnings[0]
    assert read_items(path, Columns(title="added")).frame["title"].to_list() == ["2014-01-02", ""]


HEADER = "user_id\titem_id\ttimestamp\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "user_id\titem\nu\ti\n", "line 1: missing column: no time column among"),
        ("a.tsv", "u1\ti1\t3\n", "line 1: found 1='u1' 2='i1' 3='3', which is a row and no header"),
        ("a.tsv", HEADER + "u\ti\t1\nu\ti\ttoday\n", "line 3: found 'today': time is not a number"),
        ("a.tsv", HEADER + "\nu\ti\t1\n\nu\ti\tnan\n", "line 5: found 'nan': time is missing"),
        ("a.tsv", HEADER + "u\ti\t1e300\n", "line 2: found '1e300': time"),
        ("a.tsv", HEADER + "u\ti\n", "line 2: found nothing: time is missing"),
        ("a.tsv", HEADER + "u\t \t1\n", "line 2: found ' ': item_id is missing"),
        ("a.tsv", HEADER + "u\ti\t1\n\ti\t1\n", "line 3: found nothing: user_id is missing"),
        ("a.tsv", HEADER + "u\ti\t1\nu\ti\t1\t9\n", "line 3: found 4 fields, expected 3"),
        ("a.tsv", HEADER, "no data rows"),
        ("a.tsv", "", "is empty"),
        ("a.tsv", "\n", "line 1: missing column"),
        ("a.csv", 'user,item,time\n"a\nb",i,1\n', "line 3: found 'a\\\\nb': user_id holds a tab"),
        ("a.csv", 'user,item,time\n"a",i,1\na,i,x\n', "line 3: found 'x': time"),
        ("a.csv", 'user,item,time\n"a,i,1\na,i,2\n', "line 2: .*quotes do not explain it"),
        ("a.jsonl", '{"user":"a","item":"b","time":1}\n\n{"user":\n', "line 3: not JSON"),
        ("a.jsonl", '{"user":"a","item":"b","time":1}\n\n{"user":"a"}\n', "line 3: found nothing"),
        ("a.jsonl", '[{"user":"a"}]\n', "line 1: is a JSON array"),
        ("a.jsonl", "\n\n", "no record"),
        ("a.xlsx", "x", "unknown suffix '.xlsx'"),
        ("a.parquet", "x", "not a readable Parquet file"),
    ],
)
def test_malformed_log(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_interactions(path)
    assert str(path) in str(caught.value)


def test_malformed_parquet_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user": ["a"], "item": [1.5], "time": [1]}).write_parquet(path)
    with pytest.raises(DataError, match=r"row 1: found 1\.5: item_id is a number with a fraction"):
        read_interactions(path)
    pl.DataFrame({"user": ["a", None], "item": [1, 2], "time": [1, 2]}).write_parquet(path)
    with pytest.raises(DataError, match="row 2: found nothing: user_id is missing"):
        read_interactions(path)
    pl.DataFrame({"user": ["a"], "item": [1], "time": [True]}).write_parquet(path)
    with pytest.raises(DataError, match="time column has type Boolean"):
        read_interactions(path)


def test_columns_that_were_named_must_exist(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    write_tsv(path)
    with pytest.raises(DataError, match=r"expected 'customer'; .* --user-column"):
        read_interactions(path, Columns(user="customer"))


def test_duplicate_item_names_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "items.tsv"
    path.write_text("item_id\ttitle\n01\ta\n1\tb\n\n01\tc\n")
    with pytest.raises(DataError, match="line 5: duplicate item id '01', first on line 2"):
        read_items(path)


def test_items_without_a_title_column(tmp_path: Path) -> None:
    path = tmp_path / "items.tsv"
    path.write_text("item_id\tprice\tcolour\n1\t2\tred\n")
    untitled = read_items(path)
    assert untitled.frame.rows() == [("1", "")]
    (warning,) = untitled.warnings
    assert "no title column among 'item_id', 'price', 'colour': item ids stand in" in warning
    with pytest.raises(DataError, match=r"no title column among .* expected 'color'"):
        read_items(path, Columns(title="color"))
    assert read_items(path, Columns(title="colour")).frame.rows() == [("1", "red")]


def test_unknown_item_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    write_tsv(path)
    with pytest.raises(
        DataError, match=r"line 3: unknown item '7' \(rows like it: 1\), .* of items"
    ):
        check_known_items(read_interactions(path), pl.Series(["007"]), "items.tsv")
