"""Turns times as people store them into numbers: from numbers, dates in text, typed columns.

Only the order within a history counts. So the unit does not matter, as long as a file has only one;
but two times that differ in the file must not become equal.
"""

import re
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

import polars as pl

from lumos_core.data.reading.table_files import Table, first_true, refuse_rows
from lumos_core.data.reading.text_files import shown
from lumos_core.data.time_units import UNITS
from lumos_core.errors import DataError

_LARGEST = 2**63
_MANY_TIED = 0.2
_WRONG = (
    "time is not a number, expected Unix time or a position in the history, or a date and time "
    "such as 2024-01-31T12:00:00Z; say how others are written with --time-format, as in "
    "'%d/%m/%Y %H:%M'"
)
_NAMED_MONTHS = (
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S %Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%d %b %Y %H:%M:%S %z",
)
"""Unambiguous ways besides ISO 8601: of ctime, with or without a zone, and of RFC 2822."""


def with_times(
    table: Table, time_format: str = "", ties: bool = True, baskets: bool = False
) -> Table:
    """The table with a number in its column ``timestamp``: Int64, or Float64 if times have a
    fraction and different times stay different.

    Args:
        table: with a column ``timestamp`` of any type that times have.
        time_format: how times are written, in the codes of strptime; empty: found from the values.
        ties: warn if many times are equal.
        baskets: that is as it should be, so warn only if times have lost their precision.

    Raises:
        DataError: naming lines: a value is not a time, or there are times in two units.
    """
    raw = table.frame["timestamp"]
    if time_format:
        times = _written(table, raw, time_format)
    else:
        times = _typed(table, raw) if raw.dtype.is_temporal() else _numbers(table, raw)
        _check_unit(table, times, raw)
    table = table.with_frame(table.frame.with_columns(times.alias("timestamp")))
    return _tell_ties(table, raw, baskets) if ties else table


def _written(table: Table, raw: pl.Series, time_format: str) -> pl.Series:
    """Times in a format that the user gives; without a zone they are taken for UTC."""
    if raw.dtype.is_temporal() or raw.dtype.is_nested():
        raise DataError(
            f"--time-format: would have no effect, for the time column of {table.path} has type "
            f"{raw.dtype}, which is no text; leave it out"
        )
    text = raw.cast(pl.String).str.strip_chars()
    try:
        found = text.str.strptime(pl.Datetime("ns"), time_format, strict=False)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"--time-format {time_format!r}: no format of dates ({reason})") from None
    refuse_rows(
        table,
        found.is_null(),
        f"this is no date of --time-format {time_format!r}; expected one such as "
        f"{datetime(2024, 1, 31, 12, 30, tzinfo=UTC).strftime(time_format)!r}",
        raw,
    )
    return _seconds(found.dt.epoch("ns"))


def _typed(table: Table, raw: pl.Series) -> pl.Series:
    if not isinstance(raw.dtype, pl.Date | pl.Datetime):
        raise DataError(
            f"{table.path}: the time column has type {raw.dtype}, which is no point in time; "
            "expected numbers (Unix time or a position), or dates with times"
        )
    refuse_rows(table, raw.is_null(), _WRONG, raw)
    exact = raw.cast(pl.Datetime("ns"), strict=False)
    far = exact.is_null() | (exact.dt.epoch("us") != raw.cast(pl.Datetime("us")).dt.epoch("us"))
    if far.any():  # beyond the years 1678 to 2262, which nanoseconds cannot count
        return raw.cast(pl.Datetime("us")).dt.epoch("us")
    return _seconds(exact.dt.epoch("ns"))


def _seconds(nanoseconds: pl.Series) -> pl.Series:
    """Whole seconds or seconds with a fraction; nanoseconds if two times became equal otherwise."""
    if (nanoseconds % 1_000_000_000 == 0).all():
        return nanoseconds // 1_000_000_000
    seconds = nanoseconds / 1e9
    return seconds if seconds.n_unique() == nanoseconds.n_unique() else nanoseconds


def _numbers(table: Table, raw: pl.Series) -> pl.Series:
    if raw.dtype == pl.String:
        raw = raw.str.strip_chars()
    elif isinstance(raw.dtype, pl.Decimal):
        raw = raw.cast(pl.String)
    elif not raw.dtype.is_numeric():
        raise DataError(
            f"{table.path}: the time column has type {raw.dtype}, expected numbers (Unix time or "
            "a position), or dates with times"
        )
    whole = raw.cast(pl.Int64, strict=False)
    real = raw.cast(pl.Float64, strict=False)
    if real.is_null().all() and raw.dtype == pl.String:
        return _dates(table, raw)
    wrong = real.is_null() | ~(real.abs() < float(_LARGEST))
    refuse_rows(table, wrong, _WRONG, table.frame["timestamp"])
    if raw.dtype.is_integer():
        return whole
    if not (real != real.round()).any():  # "1e9" is whole, but only a float can be read from it
        return whole.fill_null(real.cast(pl.Int64))
    if raw.dtype == pl.String and real.n_unique() < raw.n_unique():
        return _exact(raw, real)
    return real


def _exact(raw: pl.Series, real: pl.Series) -> pl.Series:
    """Decimal fractions that floats cannot tell apart, as whole numbers of a smaller unit; if these
    are too large, as their ranks."""
    try:
        values = [Decimal(text) for text in raw]
    except InvalidOperation:
        return real
    digits = max(-int(value.as_tuple().exponent) for value in values)
    scaled = [int(value.scaleb(max(digits, 0))) for value in values]
    if max(map(abs, scaled)) < _LARGEST:
        return pl.Series(raw.name, scaled, dtype=pl.Int64)
    rank = {value: n for n, value in enumerate(sorted(set(values)))}
    return pl.Series(raw.name, [rank[value] for value in values], dtype=pl.Int64)


def _dates(table: Table, raw: pl.Series) -> pl.Series:
    """ISO 8601 and what is as unambiguous; without a zone they are taken for UTC. Which of
    01/02/2024 is the month is never guessed."""
    read = {text: _nanoseconds(text) for text in raw.unique() if text is not None}
    found = pl.Series(raw.name, [read.get(text) for text in raw], dtype=pl.Int64)
    refuse_rows(table, found.is_null(), _WRONG, table.frame["timestamp"])
    return _seconds(found)


def _nanoseconds(text: str) -> int | None:
    plain, fraction = re.sub(r" ?\b(UTC|GMT)(?=$| \d{4}$)", "+00:00", text), ""
    if match := re.fullmatch(r"(.*:\d\d)[.,](\d{1,9})(.*)", plain):
        plain, fraction = match[1] + match[3], match[2]
    when = _read(plain)
    if when is None:
        return None
    seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    return round(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)


def _read(text: str) -> datetime | None:
    with suppress(ValueError):
        return datetime.fromisoformat(text)
    zoned = re.sub(r"(:\d\d)([-+]\d)", r"\1 \2", text)
    for way in _NAMED_MONTHS:
        with suppress(ValueError):
            return datetime.strptime(zoned, way)
    return None


def units_of(times: pl.Series) -> dict[str, int]:
    """Units in which there are Unix times after 1973, and the first row with one of each; smaller
    numbers may have any unit, or be positions.

    >>> units_of(pl.Series([3, 1_700_000_000]))
    {'seconds': 1}
    """
    size = times.abs().cast(pl.Float64)
    first: dict[str, int] = {}
    ends = [*(unit.least for unit in UNITS[1:]), float("inf")]
    for unit, beyond in zip(UNITS, ends, strict=True):
        inside = (size >= unit.least) & (size < beyond)
        if inside.any():
            first[unit.name] = first_true(inside)
    return first


def _check_unit(table: Table, times: pl.Series, raw: pl.Series) -> None:
    """Refuse times in two units, such as seconds and milliseconds: sorting would mix them up."""
    if raw.dtype.is_temporal() or not raw.len():
        return
    first = units_of(times)
    if len(first) > 1:
        (one, a), (other, b) = list(first.items())[:2]
        raise DataError(
            f"{table.place(a)}: found time {shown(raw[a])}, which is in {one}, but "
            f"{table.place(b).removeprefix(f'{table.path}: ')} has {shown(raw[b])}, in {other}; "
            "expected one unit in the file: convert one of them"
        )


def _tell_ties(table: Table, raw: pl.Series, baskets: bool) -> Table:
    """Warn if times lost their precision before they came into the file, or if so many are equal
    that they may not be times at all."""
    keys = ["user_id", "timestamp"]
    if raw.dtype == pl.Float32:
        cause = "the column has type Float32, which cannot tell neighbouring Unix times apart"
    elif raw.dtype == pl.String and raw.str.contains(r"^[-+]?\d(\.\d+)?[eE][-+]?\d+$").any():
        cause = "spreadsheets shorten long numbers like this (1.58869E+12)"
    else:
        name = table.columns.get("timestamp", "")
        if baskets or not name:
            return table
        # a row that is there twice says nothing about times
        share = _share(table.frame.unique(["user_id", "item_id", "timestamp"]).select(keys))
        if share <= _MANY_TIED:
            return table
        return table.warn(
            f"{table.path}: {share:.0%} of the rows share their time with another row of the same "
            f"user, and keep the order of the file; the times are those of column {name!r}: if "
            "these are no times, or coarse ones, name another column with --time-column"
        )
    share = _share(table.frame.select(keys))
    if not share:
        return table
    return table.warn(
        f"{table.path}: {share:.0%} of the rows share their time with another row of the "
        f"same user, and keep the order of the file: {cause}; export the times in full"
    )


def _share(rows: pl.DataFrame) -> float:
    """The share of rows that are not unique."""
    return int(rows.is_duplicated().sum()) / len(rows)
