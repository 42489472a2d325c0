"""Whether the first line of delimited text names the columns, and what people need to know to name
them by numbers if it does not."""

import re
from collections.abc import Collection, Sequence

from lumos_core.data.reading.text_files import shown
from lumos_core.data.time_units import UNITS

_SHOWN_FIELDS = 8
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?|\w{3},? .*\d\d:\d\d:\d\d.*")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
_FIRST_YEAR, _LAST_YEAR = 6.3e8, 2.2e9  # 1990 and 2039, in seconds


def is_row(fields: Sequence[str], given: Collection[str]) -> bool:
    """Whether a first line is more likely a row than names of columns: it holds a number or a
    date, and no name that the user has given.

    Args:
        fields: of the line.
        given: names of columns that the user has given; empty ones do not count.

    >>> is_row(["1", "23", "874887522"], ["1"])
    True
    >>> is_row(["0", "1", "2"], ["0", "1"])  # as pandas names columns that have no names
    False
    """
    if not any(_NUMBER.fullmatch(field) or _DATE.fullmatch(field) for field in fields):
        return False
    found = set(given) & set(fields) - {""}
    if found and list(fields) == [str(n) for n in range(len(fields))]:
        return False
    return all(name.isdigit() for name in found)


def numbered(fields: Sequence[str]) -> str:
    """Fields with the numbers by which ``--no-header`` calls them.

    >>> numbered(["1", "23"])
    "1='1' 2='23'"
    """
    parts = [f"{n}={shown(field)}" for n, field in enumerate(fields[:_SHOWN_FIELDS], start=1)]
    return " ".join([*parts, "…"] if len(fields) > _SHOWN_FIELDS else parts)


def time_columns(rows: Sequence[Sequence[str]]) -> list[int]:
    """Numbers, from 1, of the columns that hold Unix times or dates in all of some rows.

    >>> time_columns([["1", "23", "874887522"], ["1", "0912345678", "2024-01-31"]])
    [3]
    """
    width = min(map(len, rows), default=0)
    return [n + 1 for n in range(width) if all(_is_time(row[n].strip()) for row in rows)]


def _is_time(field: str) -> bool:
    if _DATE.fullmatch(field):
        return True
    if not _NUMBER.fullmatch(field) or field.startswith("0"):  # ids begin with zeros, times do not
        return False
    value = float(field)
    return any(_FIRST_YEAR <= value / unit.in_a_second <= _LAST_YEAR for unit in UNITS)
