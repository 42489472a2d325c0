"""Which columns of a log and a list are taken, where several could be."""

from pathlib import Path

import pytest

from lumos_core.data.interactions import read_interactions, read_items
from lumos_core.data.reading.columns import Columns
from lumos_core.errors import DataError


def log(folder: Path, header: str, row: str) -> Path:
    path = folder / "log.csv"
    path.write_text(f"{header}\n{row}\n")
    return path


@pytest.mark.parametrize(
    ("header", "row", "time", "warning"),
    [
        ("user_id,item_id,date,hourmin,time_ms", "u,i,20220501,830,1651365000000", 1651365000000,
         "from column 'time_ms', though 'date' may hold times, too; for another, "
         "--time-column date"),
        ("user,item,date,time", "u,i,20240131,7", 7, "'time', though 'date'"),
        ("user,item,position,timestamp,date,x", "u,i,1,9,2,0", 9, "'date' and 'position' may"),
        ("user,item,date,rating", "u,i,20240131,7", 20240131, None),
        ("user,item,date_time,rating", "u,i,20240131,7", 20240131, None),
    ],
)  # fmt: skip
def test_several_times_are_told(
    tmp_path: Path, header: str, row: str, time: int, warning: str | None
) -> None:
    path = log(tmp_path, header, row)
    table = read_interactions(path)
    assert table.frame.rows() == [("u", "i", time)]
    assert len(table.warnings) == (warning is not None)
    assert warning is None or warning in table.warnings[0]
    named = read_interactions(path, Columns(time="date" if ",date," in header else "date_time"))
    assert not named.warnings, "who names a column knows"


def test_a_time_of_day_beside_a_date_names_the_date(tmp_path: Path) -> None:
    path = log(tmp_path, "user,item,date,time", "u,i,2024-01-31,12:30:00")
    with pytest.raises(DataError, match=r"found '12:30:00': time is not [\s\S]*--time-column date"):
        read_interactions(path)


@pytest.mark.parametrize("name", ["timestamp", "user_id", "item_id"])
def test_a_name_that_two_columns_have_is_refused(tmp_path: Path, name: str) -> None:
    header = "user_id,item_id,timestamp,rating"
    place = header.split(",").index(name) + 1
    path = log(tmp_path, f"{header},{name}", "u,i,3,4,5")
    with pytest.raises(DataError, match=f"columns {place} and 5 are both called '{name}'"):
        read_interactions(path)
    named = Columns(user="user_id", item="item_id", time="timestamp")
    with pytest.raises(DataError, match=f"both called '{name}'"):
        read_interactions(path, named)
    assert read_interactions(log(tmp_path, f"{header},rating", "u,i,3,4,5")).frame.rows()


def test_a_title_that_two_columns_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title,title\n1,fr,en\n")
    with pytest.raises(DataError, match="columns 2 and 3 are both called 'title'"):
        read_items(path)
    path.write_text("id,id,title\n1,2,en\n")
    with pytest.raises(DataError, match="columns 1 and 2 are both called 'id'"):
        read_items(path)
