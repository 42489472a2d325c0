"""Files that somebody writes while they are read, and times that are no numbers: errors, never a
traceback."""

import gzip
from datetime import time, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lumos_core.data import interactions
from lumos_core.data.interactions import read_interactions
from lumos_core.errors import DataError

LOGS = {
    "log.tsv": "user_id\titem_id\ttimestamp\na\tb\t1\na\tc\tx\n",
    "log.jsonl": '{"user_id":"a","item_id":"b","timestamp":1}\n'
    '{"user_id":"a","item_id":"c","timestamp":"x"}\n',
}


def changed_after(monkeypatch: pytest.MonkeyPatch, step: str, path: Path, text: str) -> None:
    """Somebody writes ``text`` as soon as this step of reading has been taken."""
    take = getattr(interactions, step)

    def taken(*arguments: Any) -> Any:
        found = take(*arguments)
        path.write_text(text)
        return found

    monkeypatch.setattr(interactions, step, taken)


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("step", ["column_names", "read_table"])
@pytest.mark.parametrize("text", ["", "\n", "a\n", '{"a":1}\n', "x\ty\tz\n1\t2\t3\n"])
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: str, text: str
) -> None:
    path = tmp_path / name
    path.write_text(LOGS[name])
    changed_after(monkeypatch, step, path, text)
    with pytest.raises(DataError, match=name) as found:
        read_interactions(path)
    if text == "\n":
        assert "has changed while it was read; try again" in str(found.value)


def test_a_gzip_file_of_nothing_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv.gz"
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match=r"log\.tsv\.gz: the file is empty, expected"):
        read_interactions(path)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_numbers_that_json_does_not_know_are_named_by_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "log.jsonl"
    rows = [f'{{"user_id":"a","item_id":"b","timestamp":{t}}}\n' for t in (1, value, 3)]
    path.write_text("".join(rows))
    with pytest.raises(DataError, match=r"log\.jsonl: line 2: not JSON .*finite numbers"):
        read_interactions(path)


@pytest.mark.parametrize("value", ["NaN", "inf", "-inf", "1e400", "1e19"])
def test_times_that_are_not_finite_in_text(tmp_path: Path, value: str) -> None:
    path = tmp_path / "log.tsv"
    path.write_text(LOGS["log.tsv"].replace("x", value))
    with pytest.raises(DataError, match=rf"line 3: found '{value}': time is (not|missing)"):
        read_interactions(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_times_that_are_not_finite_in_parquet(tmp_path: Path, value: float) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user_id": "a", "item_id": "b", "timestamp": [1.0, value]}).write_parquet(path)
    with pytest.raises(DataError, match=r"row 2: found (nan|inf): time is (not a number|missing)"):
        read_interactions(path)


@pytest.mark.parametrize("value", [time(12, 30), timedelta(hours=1)])
def test_times_of_day_and_durations_are_no_points_in_time(tmp_path: Path, value: object) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user_id": "a", "item_id": "b", "timestamp": [value]}).write_parquet(path)
    with pytest.raises(DataError, match=r"the time column has type (Time|Duration)"):
        read_interactions(path)
