"""Rows that lack a user, an item or a time: refused by line, or left out and counted by reason."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.data.catalog import Catalog
from lumos_core.data.ingest import ingest
from lumos_core.data.interactions import read_interactions, read_items, read_log_titles
from lumos_core.data.node_folder import read_node
from lumos_core.data.reading.columns import Columns
from lumos_core.data.reading.ids import PLACEHOLDERS
from lumos_core.data.removed_users import removal_of
from lumos_core.errors import DataError

GOOD = "".join(f"u{n % 2}\ti{n}\t{n}\n" for n in range(8))
HEADER = "user_id\titem_id\ttimestamp\n"
DROP = Columns(drop_missing=True)


def log(folder: Path, rows: str) -> Path:
    path = folder / "log.tsv"
    path.write_text(HEADER + GOOD + rows)
    return path


@pytest.mark.parametrize("word", ["", " ", *PLACEHOLDERS, "NaN", "None", "NULL", "N/A"])
@pytest.mark.parametrize(
    ("row", "column"), [("{}\ti1\t9", "user_id"), ("u1\t{}\t9", "item_id"), ("u1\ti1\t{}", "time")]
)
def test_what_is_missing_is_named_with_the_option(
    tmp_path: Path, row: str, column: str, word: str
) -> None:
    path = log(tmp_path, row.format(word) + "\n")
    message = rf"line 10: found .*: {column} is missing \(rows like it: 1\).*--drop-missing"
    with pytest.raises(DataError, match=message):
        read_interactions(path)
    assert read_interactions(path, DROP).frame["item_id"].to_list() == [f"i{n}" for n in range(8)]


def test_a_user_may_be_called_nat(tmp_path: Path) -> None:
    path = log(tmp_path, "nat\tnat\t9\n")
    assert read_interactions(path).frame.rows()[-1] == ("nat", "nat", 9)
    with pytest.raises(DataError, match="found 'NaT': time is missing"):
        read_interactions(log(tmp_path, "nat\tnat\tNaT\n"))


def test_each_reason_is_counted_and_the_sum_is_right(tmp_path: Path) -> None:
    path = log(tmp_path, "\tnan\t\nu1\tnan\t9\nu1\tNone\t\nu1\ti1\t\n\ti1\t9\nu1\ti1\tnan\n")
    out = tmp_path / "out"
    options = ["--out", str(out), "--nodes", "1", "--k-core", "0", "--drop-missing"]
    result = CliRunner().invoke(app, ["prepare", str(path), *options])
    assert result.exit_code == 0, result.output
    assert (
        "14 rows = 8 kept + 6 dropped (2 without a user, 2 without an item, 2 without a time)"
        in result.stdout
    )
    assert Catalog.read(out / "catalog.tsv").item_ids == tuple(f"i{n}" for n in range(8))


def test_lines_are_right_behind_rows_that_are_left_out(tmp_path: Path) -> None:
    path = log(tmp_path, "u1\tnan\t9\nu1\ti1\tsoon\n")
    with pytest.raises(DataError, match="line 11: found 'soon': time is not a number"):
        read_interactions(path, DROP)


def test_nothing_but_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    path.write_text(HEADER + "a\tb\t\n\tb\t2\n")
    with pytest.raises(DataError, match="no row has a user, an item and a time"):
        read_interactions(path, DROP)


def test_a_list_leaves_out_items_without_an_id_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "items.tsv"
    path.write_text("item_id\ttitle\na\tA\nnan\tB\nNone\tC\nb\tD\nb\tE\n")
    with pytest.raises(DataError, match="line 6: duplicate item id 'b', first on line 5"):
        read_items(path)
    path.write_text("item_id\ttitle\na\tA\nnan\tB\nNone\tC\n\tD\n")
    with pytest.raises(DataError, match="line 5: found nothing: item_id is empty"):
        read_items(path)
    listed = read_items(path, DROP)
    assert listed.frame.rows() == [("a", "A")]
    assert "line 3: 3 rows of this list have no item id (found 'nan')" in listed.warnings[0]


def test_titles_of_the_log_skip_rows_without_an_item(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    path.write_text("user_id\titem_id\ttimestamp\tname\nu\ta\t1\tA\nu\tnan\t2\tB\nu\t\t3\tC\n")
    titles = read_log_titles(path, Columns(title="name", drop_missing=True))
    assert titles.rows() == [("a", "A")]


def test_a_node_whose_catalog_has_such_an_item_keeps_it(tmp_path: Path) -> None:
    """It was prepared by an earlier LUMOS, or the item is really called that."""
    node = tmp_path / "node"
    node.mkdir()
    Catalog(("a", "null"), ("A", "Null")).write(node / "catalog.tsv")
    rows = "".join(f"u{n % 2}\t{item}\t{n}\n" for n, item in enumerate(["a", "null"] * 4))
    (node / "interactions.tsv").write_text(HEADER + rows + "u2\tnull\t7\n")
    assert len(read_node(node)[1]) == 2
    assert removal_of(node, ["u0"]).found == {"u0"}
    new = tmp_path / "new.tsv"
    new.write_text(HEADER + "u3\ta\t8\nu3\tnan\t9\n")
    with pytest.raises(DataError, match="line 3: found 'nan': item_id is missing"):
        ingest(new, node, node / "state")
    done = ingest(new, node, node / "state", columns=DROP)
    assert done.sentence() == "2 rows = 1 added (1 new user) + 1 without an item"
