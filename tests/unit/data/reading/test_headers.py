"""Logs without a header: they are recognised, and no message takes a rating for the time."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos_core.data.interactions import read_interactions
from lumos_core.data.reading.columns import Columns
from lumos_core.data.reading.headers import is_row, numbered, time_columns
from lumos_core.errors import DataError

U_DATA = "1\t23\t1\t874887522\n1\t7\t5\t874887530\n2\t23\t1\t874887900\n"
AMAZON_RATINGS = "B000000023,A0001X,1.0,874887522\nB000000007,A0001X,5.0,874887530\n"
HEADERLESS = {
    "MovieLens 100K": ("u.tsv", U_DATA, Columns(), "--no-header .* --time-column 4;"),
    "Amazon 2018": ("r.csv", AMAZON_RATINGS, Columns(), "2='A0001X' 3='1.0'.*--time-column 4;"),
    "numbers that stand in the first row, too": (
        "u.tsv", U_DATA, Columns("1", "2"), "--user-column 1 --item-column 2 --time-column 4;"
    ),
    "an empty field": (
        "l.tsv", "u\t2009-05-04T23:08:57Z\ta\t\tSong\n", Columns(), "4='' .*--time-column 2;"
    ),
    "milliseconds": ("t.csv", "u,3,7,1588687728923\n", Columns(), "--time-column 4;"),
    "two that may be times": (
        "t.csv", "u,1388687728,7,1588687728\n", Columns(), r"--time-column N \(or --order file"
    ),
    "no time": ("t.csv", "1,2,3\n", Columns(), r"--time-column N \(or --order file"),
    "users and items": ("t.txt", "1 2\n1 3\n", Columns(), "--item-column N --order file;"),
    "a long field": ("t.csv", f"1,{'x' * 99},874887522\n", Columns(), f"2='{'x' * 40}…' 3="),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERLESS)
def test_a_first_row_is_no_header(tmp_path: Path, case: str) -> None:
    name, text, columns, message = HEADERLESS[case]
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=f"{name}: line 1: .*is a row and no header") as caught:
        read_interactions(path, columns)
    assert re.search(message, str(caught.value))


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("user_id,item_id,timestamp,0", Columns()),
        ("user_id,item_id,timestamp,2024-01-01", Columns()),
        ("u,i,t,2024-01-01", Columns("u", "i", "t")),
        ("0,1,2,3", Columns("0", "1", "2")),
    ],
)
def test_a_header_may_hold_numbers(tmp_path: Path, header: str, columns: Columns) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"{header}\na,b,3,4\n")
    assert read_interactions(path, columns).frame.rows() == [("a", "b", 3)]


names = st.text("abcdefg_", min_size=1, max_size=8)
numbers = st.integers(0, 10**13).map(str)


@given(st.lists(names, min_size=1, max_size=6), st.lists(names, max_size=3))
def test_names_alone_are_never_a_row(fields: Sequence[str], given_names: Sequence[str]) -> None:
    assert not is_row(fields, given_names)


@given(st.lists(st.one_of(numbers, st.just("")), min_size=2, max_size=6).filter(any))
def test_numbers_are_a_row_whatever_numbers_are_given(fields: Sequence[str]) -> None:
    counted = list(fields) == [str(n) for n in range(len(fields))]
    assert is_row(fields, ["", *fields]) != counted


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_column_of_times_holds_nothing_else(rows: Sequence[Sequence[str]]) -> None:
    for n in time_columns(rows):
        assert all(len(row[n - 1]) >= 9 for row in rows)
    assert time_columns([*rows, ["1", "2", "3"]]) == []


def test_many_fields_are_not_all_shown() -> None:
    assert re.search(r"8='8' …$", numbered([str(n) for n in range(1, 100)]))


RATING = [(u, i, i % 5, 874887522 + i) for u in range(3) for i in range(20)]


def ties(path: Path, rows: Sequence[Sequence[int]], column: str) -> list[str]:
    lines = "".join(",".join(map(str, row)) + "\n" for row in rows)
    path.write_text(f"user,item,rating,time\n{lines}")
    return [w for w in read_interactions(path, Columns(time=column)).warnings if "share" in w]


def test_many_equal_times_are_told(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    (warning,) = ties(path, RATING, "rating")
    assert "log.csv: 100% of the rows share their time" in warning
    assert "column 'rating'" in warning
    assert "--time-column" in warning
    assert ties(path, RATING, "time") == []
    assert ties(path, [*RATING, *RATING], "time") == [], "rows that are there twice"
    few = [(u, i, r, t - 1 if i == 1 else t) for u, i, r, t in RATING]
    assert ties(path, few, "time") == [], "a tenth of the rows"
