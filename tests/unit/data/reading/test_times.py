"""Times as programs write them: the unambiguous ones are read, the others by a format."""

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos_core.data.interactions import read_interactions
from lumos_core.data.reading.columns import Columns
from lumos_core.data.reading.table_files import Table
from lumos_core.data.reading.times import with_times
from lumos_core.errors import DataError

WHEN = 874912722  # Mon, 22 Sep 1997 07:18:42 UTC


def read(*texts: str, time_format: str = "") -> list[float]:
    frame = pl.DataFrame({"user_id": "u", "item_id": "i", "timestamp": texts})
    table = Table(Path("log.csv"), "csv", frame, columns={"timestamp": "when"})
    return with_times(table, time_format).frame["timestamp"].to_list()


@pytest.mark.parametrize(
    "text",
    [
        "1997-09-22 07:18:42 UTC",
        "1997-09-22T07:18:42Z",
        "1997-09-22 09:18:42+0200",
        "1997-09-22 07:18:42 GMT",
        "Mon Sep 22 00:18:42 -0700 1997",
        "Mon Sep 22 07:18:42 +0000 1997",
        "Mon Sep 22 07:18:42 UTC 1997",
        "Mon Sep 22 07:18:42 1997",
        "Mon, 22 Sep 1997 07:18:42 GMT",
        "Mon, 22 Sep 1997 00:18:42 -0700",
        "22 Sep 1997 09:18:42 +0200",
    ],
)
def test_unambiguous_times_need_no_option(text: str) -> None:
    assert read(text) == [WHEN]


def test_fractions_are_kept() -> None:
    assert read("1997-09-22 07:18:42,25", "1997-09-22 07:18:42.75 UTC") == [
        WHEN + 0.25,
        WHEN + 0.75,
    ]


@pytest.mark.parametrize(
    "text", ["01/02/2024", "1.2.2024 10:00", "01-02-2024", "2024-13-01", "12:30:00", "Feb 2024"]
)
def test_the_others_are_never_guessed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"user,item,time\nu,i,{text}\n")
    with pytest.raises(DataError, match=rf"line 2: found '{text}': time is not .*--time-format"):
        read_interactions(path)


@pytest.mark.parametrize(
    ("text", "time_format", "expected"),
    [
        ("01/02/2024", "%d/%m/%Y", datetime(2024, 2, 1, tzinfo=UTC)),
        ("01/02/2024", "%m/%d/%Y", datetime(2024, 1, 2, tzinfo=UTC)),
        ("1.2.2024 10:30", "%d.%m.%Y %H:%M", datetime(2024, 2, 1, 10, 30, tzinfo=UTC)),
        ("20240201", "%Y%m%d", datetime(2024, 2, 1, tzinfo=UTC)),
        ("01/02/2024 10:30 +0200", "%d/%m/%Y %H:%M %z", datetime(2024, 2, 1, 8, 30, tzinfo=UTC)),
    ],
)
def test_a_format_says_how_to_read(text: str, time_format: str, expected: datetime) -> None:
    assert read(text, time_format=time_format) == [expected.timestamp()]


def test_a_format_counts_for_numbers_in_parquet_too(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    frame = pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": [20240201]})
    frame.write_parquet(path)
    table = read_interactions(path, Columns(time_format="%Y%m%d"))
    assert table.frame["timestamp"].to_list() == [datetime(2024, 2, 1, tzinfo=UTC).timestamp()]
    frame.with_columns(timestamp=datetime(2024, 2, 1)).write_parquet(path)
    with pytest.raises(DataError, match="--time-format: would have no effect"):
        read_interactions(path, Columns(time_format="%Y%m%d"))


def test_what_a_format_does_not_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\nu,i,31/01/2024\nu,j,01/31/2024\n")
    with pytest.raises(DataError, match=r"line 3: found '01/31/2024': .*such as '31/01/2024'"):
        read_interactions(path, Columns(time_format="%d/%m/%Y"))
    with pytest.raises(DataError, match=r"--time-format '%d %H': no format of dates"):
        read_interactions(path, Columns(time_format="%d %H"))
    with pytest.raises(DataError, match=r"--order file: .*--time-format '%d' would have no effect"):
        read_interactions(path, Columns(time_format="%d", file_order=True))


moments = st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1)).map(
    lambda when: when.replace(microsecond=0)
)
zones = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(moments, zones)
def test_every_moment_is_read_from_every_way_to_write_it(when: datetime, zone: timezone) -> None:
    here = when.replace(tzinfo=zone)
    naive = here.astimezone(UTC).replace(tzinfo=None)
    written = (
        here.isoformat(),
        format_datetime(here),
        here.strftime("%a %b %d %H:%M:%S %z %Y"),
        naive.strftime("%Y-%m-%d %H:%M:%S UTC"),
        naive.ctime(),
    )
    assert read(*written) == [here.timestamp()] * len(written)
    ways = "%d/%m/%Y %H.%M.%S %z"
    assert read(here.strftime(ways), time_format=ways) == [here.timestamp()]
