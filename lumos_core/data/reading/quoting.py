"""The records of delimited text under one rule of quoting.

There is more than one CSV format. Spreadsheets double quotes inside quoted fields, database dumps
put backslashes before them, hand-made exports leave them as they are, and TSV mostly has no quoting
at all:

=============  =====================================================================================
plain          no quoting: every line is a row, quotes are characters like any other
standard       RFC 4180: fields in quotes, quotes inside doubled; a field may hold line breaks
backslash      one row per line; quotes inside quoted fields have a backslash before them (MySQL)
loose          one row per line; a quoted field ends at a quote before a separator or the line's end
=============  =====================================================================================

Which rule a file follows is found by :mod:`lumos_core.data.reading.delimited`.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Quoting = Literal["plain", "standard", "backslash", "loose"]
Record = tuple[int, list[str]]
"""The number of a record's last line, counted from 1, and its fields."""

BLANK = " \t\v\f\xa0"
"""What a blank line may hold beside separators; written out, as Python and polars strip by
different lists."""


@dataclass(frozen=True)
class Dialect:
    """How the fields of a file are told apart.

    Attributes:
        separator: one character, or a few such as "::"; a space stands for any run of spaces.
        quoting: one of the rules in the module's docstring.
        header: whether the first record names the columns; if not, they are called "1", "2", ….
    """

    separator: str
    quoting: Quoting = "plain"
    header: bool = True


def records(text: str, dialect: Dialect) -> Iterator[Record]:
    """Every record that is not blank, the header included; slow but exact.

    Raises:
        csv.Error: under ``standard``, the text breaks that rule.
        ValueError: under another rule, the rule does not explain a line.
    """
    if dialect.quoting == "standard":
        csv.field_size_limit(2**31 - 1)
        reader = csv.reader(
            io.StringIO(text, newline="\n"), delimiter=dialect.separator, strict=True
        )
        for fields in reader:
            if not is_blank(fields):
                yield reader.line_num, fields
        return
    for number, line in enumerate(text.split("\n"), start=1):
        found = _one_line(line, dialect)
        if found is None:
            raise ValueError(f"{number}")
        if not is_blank(found):
            yield number, found


def is_blank(fields: Sequence[str]) -> bool:
    """Whether a line is no record: both ways of reading skip it, or lines would be miscounted."""
    return not any(field.strip(BLANK) for field in fields)


def fields_of(line: str, separator: str) -> list[str]:
    """The fields of a line: in quotes if that explains it, else with the quotes as text."""
    quoted = None if len(separator) > 1 else _one_line(line, Dialect(separator, "standard"))
    return line.split(separator) if quoted is None else quoted


def _one_line(line: str, dialect: Dialect) -> list[str] | None:
    """The fields of a line that is a row by itself; None if the rule does not explain it."""
    separator = dialect.separator
    if separator == " ":
        return line.split()
    if dialect.quoting == "plain" or '"' not in line:
        return line.split(separator)
    if dialect.quoting == "standard":
        try:
            return next(csv.reader([line], delimiter=separator, strict=True))
        except csv.Error:
            return None
    find = _closing_backslash if dialect.quoting == "backslash" else _closing_loose
    fields: list[str] = []
    start = 0
    while True:
        end = find(line, start, separator) if line.startswith('"', start) else None
        if end is None:  # no quoted field: quotes in it are characters like any other
            end = line.find(separator, start)
            field = line[start:] if end < 0 else line[start:end]
            opened = field.startswith('"')
            if opened and (dialect.quoting == "backslash" or field.count('"') == 1):
                return None  # the quote is never closed: the field may have held separators
            end = len(line) if end < 0 else end
        else:
            field = _unescaped(line[start + 1 : end - 1], dialect.quoting)
        fields.append(field)
        if end >= len(line):
            return fields
        start = end + 1


def _closing_loose(line: str, start: int, separator: str) -> int | None:
    """Where a quoted field ends: behind the first quote before a separator or the line's end."""
    at = line.find('"', start + 1)
    while at >= 0:
        if at + 1 == len(line) or line[at + 1] == separator:
            return at + 1
        at = line.find('"', at + 1)
    return None


def _closing_backslash(line: str, start: int, separator: str) -> int | None:
    """Where a quoted field ends; a quote behind a backslash, or a doubled one, does not end it."""
    at = start + 1
    while at < len(line):
        if line[at] == "\\":
            at += 2
        elif line[at] != '"':
            at += 1
        elif line.startswith('"', at + 1):
            at += 2
        else:
            whole = at + 1 == len(line) or line[at + 1] == separator
            return at + 1 if whole else None
    return None


def _unescaped(field: str, quoting: Quoting) -> str:
    if quoting == "backslash":
        return re.sub(r'\\([\\"])|""', lambda m: m.group(1) or '"', field)
    return field.replace('""', '"')
