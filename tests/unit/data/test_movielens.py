"""MovieLens as it is published, with its titles: odd suffixes, ``::``, lists without a header."""

import gzip
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.data.catalog import Catalog
from lumos_core.data.interactions import read_interactions, read_items
from lumos_core.data.reading.columns import Columns
from lumos_core.data.reading.delimited import separator_of
from lumos_core.errors import DataError

TIME = 874887522
RATINGS = [(u, i, 5, TIME + 10 * i) for u in (1, 2) for i in range(1, 5)]
NAMES = ["Toy Story (1995)", "Léon: The Professional (1994)", "Four Rooms (1995)", "Heat (1995)"]
LOG = ["--no-header", "--user-column", "1", "--item-column", "2", "--time-column", "4"]
LIST = ["--items-no-header", "--items-id-column", "1", "--title-column", "2"]


def write(path: Path, rows: list[tuple[object, ...]], separator: str) -> Path:
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def published(tmp_path: Path) -> Path:
    write(tmp_path / "u.data", RATINGS, "\t")
    films = [(n, t, "01-Jan-1995", "", "http://x/?1::2", 0, 1) for n, t in enumerate(NAMES, 1)]
    write(tmp_path / "u.item", films, "|")
    write(tmp_path / "ratings.dat", RATINGS, "::")
    genres = ["Animation|Children's", "Crime", "Thriller", "Action|Crime|Thriller"]
    write(tmp_path / "movies.dat", list(zip(range(1, 5), NAMES, genres, strict=True)), "::")
    return tmp_path


@pytest.mark.parametrize(
    ("log", "items", "more"),
    [
        ("u.data", "u.item", ""),
        ("ratings.dat", "movies.dat", ""),
        ("ratings.dat", "u.item", "--separator ::"),
    ],
)
def test_movielens_with_its_titles(published: Path, log: str, items: str, more: str) -> None:
    out = published / "out"
    files = [str(published / log), "--items", str(published / items), "--out", str(out)]
    options = ["--nodes", "1", "--k-core", "0", *LOG, *LIST, *more.split()]
    result = CliRunner().invoke(app, ["prepare", *files, *options])
    assert result.exit_code == 0, result.output
    assert Catalog.read(out / "catalog.tsv").titles == tuple(NAMES)
    rows = (out / "node-0" / "interactions.tsv").read_text().splitlines()[1:]
    assert rows == [f"{u}\t{i}\t{t}" for u, i, _, t in RATINGS]


@pytest.mark.parametrize("items", ["u.item", "movies.dat"])
def test_a_list_without_a_header_says_how_to_name_its_columns(published: Path, items: str) -> None:
    message = rf"{items}: line 1: found 1='1' 2='Toy Story \(1995\)' .*is a row and no header.*"
    with pytest.raises(DataError, match=message + "--items-id-column N --title-column N"):
        read_items(published / items)
    with pytest.raises(DataError, match=message + "--items-id-column 1 --title-column N"):
        read_items(published / items, Columns(items_id="1"))


def test_numbers_of_the_log_are_not_those_of_the_list(published: Path) -> None:
    numbers = Columns("2", "1", "4", header=False, items_header=False, title="2")
    with pytest.raises(DataError, match=r"no item column among '1', '2', '3'.*--items-id-column"):
        read_items(published / "movies.dat", numbers)


def test_a_list_may_have_a_header_with_numbers(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("movieId,title,1990,1991\n1,Heat,0,1\n")
    assert read_items(path).frame.rows() == [("1", "Heat")]


@pytest.mark.parametrize("name", ["log.data", "log.dat", "log", "log.dat.gz", "log.2024-01"])
@pytest.mark.parametrize("separator", ["\t", ",", ";", "|", "::", " "])
def test_any_suffix_is_text(tmp_path: Path, name: str, separator: str) -> None:
    text = "".join(separator.join(map(str, row)) + "\n" for row in RATINGS).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    table = read_interactions(path, Columns("1", "2", "4", header=False))
    assert table.frame.rows() == [(str(u), str(i), t) for u, i, _, t in RATINGS]
    assert table.place(3) == f"{path}: line 4"


def test_objects_under_any_suffix_are_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.data"
    path.write_text('{"user": "a", "item": "b", "time": 1}\n')
    assert read_interactions(path).frame.rows() == [("a", "b", 1)]


OTHERS = {
    "log.xlsx": (b"x", "unknown suffix '.xlsx'.*save the sheet as CSV"),
    "log.pkl": (b"x", "unknown suffix '.pkl'.*export it"),
    "log.csv.xz": (b"x", "unknown suffix '.xz'.*unpack it"),
    "zip.csv": (b"PK\x03\x04rest", "found a zip archive or a workbook; unpack it"),
    "parquet.tsv": (b"PAR1rest", "found Parquet; rename it"),
    "bz.dat": (b"BZh91AY", "found packed by bzip2; unpack it"),
    "gone.dat": (None, "no such file"),
    "latin.dat": ("1::Misérables\n".encode("latin-1"), r"line 1: byte 0xe9 .*iconv"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_text_is_named(tmp_path: Path, name: str) -> None:
    content, message = OTHERS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: .*{message}"):
        read_interactions(tmp_path / name)


@pytest.mark.parametrize("text", ["::", "||", "|#|", "§", ":", "tab", "\\t"])
def test_separators(text: str) -> None:
    separator_of(text)


@pytest.mark.parametrize("text", ["", "ab", "tabs", '"', "\n", ": :", '":"', ":::::"])
def test_no_separators(text: str) -> None:
    with pytest.raises(DataError, match=r"expected one character, or one of tab, .* such as ::"):
        separator_of(text)


def test_a_separator_of_several_bytes_reads_what_holds_its_stand_in(tmp_path: Path) -> None:
    for separator in ("::", "§"):
        path = tmp_path / "log.csv"
        path.write_text(separator.join(["user", "item", "time", "note"]) + "\n")
        with path.open("a") as file:
            file.write(separator.join(["a", "b", "1", '\x1f"x']) + "\n")
        table = read_interactions(path, Columns(separator=separator))
        assert table.frame.rows() == [("a", "b", 1)]


NO_EFFECT = {
    "JSON": ("items.jsonl", '{"item_id": "a", "title": "A"}\n'),
    "a run's catalog": ("catalog.tsv", "item_id\ttitle\na\tA\n"),
}


@pytest.mark.parametrize("case", [*NO_EFFECT, "no list"])
def test_an_option_without_effect(tmp_path: Path, case: str) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user,item,time\nu,a,1\n")
    arguments = ["prepare", str(log), "--out", str(tmp_path / "out"), "--items-no-header"]
    if case in NO_EFFECT:
        name, text = NO_EFFECT[case]
        (tmp_path / name).write_text(text)
        arguments += ["--items", str(tmp_path / name)]
    result = CliRunner().invoke(app, arguments)
    assert "--items-no-header: would have no effect" in str(result.exception)
