from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lumos_core.data.node_folder import read_node
from lumos_core.errors import DataError

CATALOG = "item_id\ttitle\nc\tCup\n01\tOne\n1\tUno\n"
ROWS = ["z c 3", "z 01 1", "a 1 5", "a c 5", "z 1 2", "a 01 4", "a 01 5"]
LOG = "\n".join(["user_id item_id timestamp", *ROWS, ""]).replace(" ", "\t")


def folder(tmp_path: Path, catalog: str = CATALOG, log: str = LOG) -> Path:
    (tmp_path / "catalog.tsv").write_text(catalog)
    (tmp_path / "interactions.tsv").write_text(log)
    return tmp_path


def test_histories_by_user_time_and_file_order(tmp_path: Path) -> None:
    catalog, sequences = read_node(folder(tmp_path))
    assert catalog.item_ids == ("c", "01", "1")
    assert sequences.user_ids == ("a", "z")
    assert [items.tolist() for items in sequences] == [[2, 3, 1, 2], [2, 3, 1]]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_other_formats(tmp_path: Path, suffix: str) -> None:
    _, expected = read_node(folder(tmp_path))
    frame = pl.read_csv(tmp_path / "interactions.tsv", separator="\t", infer_schema=False)
    (tmp_path / "interactions.tsv").unlink()
    path = tmp_path / f"interactions{suffix}"
    write: dict[str, Any] = {
        ".csv": pl.DataFrame.write_csv,
        ".jsonl": pl.DataFrame.write_ndjson,
        ".parquet": pl.DataFrame.write_parquet,
    }
    write[suffix](frame, path)
    _, sequences = read_node(tmp_path)
    assert sequences.user_ids == expected.user_ids
    assert sequences.items.tolist() == expected.items.tolist()


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (LOG + "a\t001\t9\n", r"interactions.tsv: line 9: unknown item '001' .*catalog\.tsv"),
        (LOG + "a\tc\t\n", "line 9: found nothing: time is not a number"),
    ],
)
def test_malformed_log(tmp_path: Path, log: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_node(folder(tmp_path, log=log))


def test_short_users_are_left_out_and_counted(tmp_path: Path) -> None:
    log = LOG + "b\tc\t1\nb\tc\t2\n0\tc\t1\n"
    _, sequences = read_node(folder(tmp_path, log=log))
    assert (sequences.user_ids, sequences.left_out) == (("a", "z"), 2)
    assert [items.tolist() for items in sequences] == [[2, 3, 1, 2], [2, 3, 1]]
    _, everybody = read_node(tmp_path, min_history=1)
    assert (everybody.user_ids, everybody.left_out) == (("0", "a", "b", "z"), 0)


def test_what_short_users_hold_is_checked_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 9: unknown item '001'"):
        read_node(folder(tmp_path, log=LOG + "b\t001\t9\n"))


def test_a_node_of_short_users_alone(tmp_path: Path) -> None:
    short = "user_id\titem_id\ttimestamp\nb\tc\t1\nb\tc\t2\na\tc\t1\n"
    message = (
        r"interactions\.tsv: found no user with at least 3 interactions \(users: 2, "
        r"interactions: 3\), expected 3 or more .*; give this node longer histories"
    )
    with pytest.raises(DataError, match=message):
        read_node(folder(tmp_path, log=short))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nope: no such folder"):
        read_node(tmp_path / "nope")
    with pytest.raises(DataError, match="found none, expected exactly one interactions file"):
        read_node(tmp_path)
    (tmp_path / "interactions.tsv").write_text(LOG)
    with pytest.raises(DataError, match=r"catalog\.tsv: no such file"):
        read_node(tmp_path)
    (tmp_path / "interactions.csv.gz").touch()
    with pytest.raises(DataError, match=r"found interactions\.tsv, interactions\.csv\.gz"):
        read_node(tmp_path)
