"""Delimited text as people deliver it: finds the separator and the quoting, and reads every row.

There is more than one CSV format (:mod:`lumos_core.data.reading.quoting`), and under the wrong rule
a quote silently swallows all rows up to the next quote. So a file is read under a rule only if that
rule explains *all* of it. If two rules do but disagree about its rows, or if no rule does, the
error names the line.
"""

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from lumos_core.data.reading.quoting import (
    BLANK,
    Dialect,
    Quoting,
    Record,
    fields_of,
    is_blank,
    records,
)
from lumos_core.errors import DataError

SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
_STAND_IN = "\x1f"  # for a separator of several bytes, which polars does not know
_SNIFFED_LINES = 50
_HEAD_BYTES = 2**20


def separator_of(text: str) -> str:
    """The character behind a name of :data:`SEPARATORS`, or what is given: one character, or
    several that are no letters, digits, spaces or quotes.

    Raises:
        DataError: it is neither.
    """
    found = SEPARATORS.get(text, text.replace("\\t", "\t"))
    if (len(found) != 1 or found in '"\n\r') and not re.fullmatch(r"[^\w\s\"]{2,4}", found):
        names = ", ".join(SEPARATORS)
        raise DataError(
            f"--separator {text!r}: expected one character, or one of {names}, or a few such as ::"
        )
    return found


def find_separator(text: bytes, usual: str) -> str:
    """The separator of a file: the usual one of its suffix, unless its content shows another.

    Args:
        text: the file, or its beginning.
        usual: the separator that its suffix stands for.
    """
    head = text[:_HEAD_BYTES].decode(errors="ignore").split("\n")
    lines = [line for line in head if line.strip()][:_SNIFFED_LINES]
    if not lines or usual in lines[0]:
        return usual
    starts = [line.partition("::") for line in lines]  # "::" may stand in texts: look at ids only
    if all(rest and not re.search(r"[\t,;|]", first) for first, rest, _ in starts):
        return "::"
    for candidate in (s for s in "\t,;|" if s != usual):
        counts = {line.count(candidate) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return candidate
    quoted_counts = [lines[0].count(c) for c in "\t;,|"]
    if any(quoted_counts):  # counts differ from line to line: quoted text may hold the separator
        return "\t;,|"[quoted_counts.index(max(quoted_counts))]
    words = {len(line.split()) for line in lines}
    return " " if len(words) == 1 and words != {1} else usual


def column_names(path: Path, text: bytes, separator: str, header: bool) -> list[str]:
    """Names in the first record, or "1", "2", … if there is no header.

    Args:
        path: for messages.
        text: the file, or its beginning.
        separator, header: see :class:`Dialect`.
    """
    first, *_ = first_rows(text, separator, 1) or [[""]]
    names = [name.strip() for name in first]
    return names if header else [str(n) for n in range(1, len(names) + 1)]


def first_rows(text: bytes, separator: str, count: int) -> list[list[str]]:
    """The fields of the first lines that are not blank, whatever the quoting of the file is.

    Args:
        text: the file, or its beginning.
        separator: see :class:`Dialect`.
        count: of lines.
    """
    decoded = text[:_HEAD_BYTES].decode(errors="ignore")
    lines = (fields_of(line, separator) for line in decoded.split("\n"))
    return list(itertools.islice((fields for fields in lines if not is_blank(fields)), count))


def find_dialect(path: Path, text: bytes, separator: str, header: bool, width: int) -> Dialect:
    """The rule under which a file can be read without losing a row.

    Args:
        path: for messages.
        text: the whole file.
        separator, header: see :class:`Dialect`.
        width: fields in a row.

    Raises:
        DataError: naming the line that no rule explains, or that two explain differently.
    """
    if b'"' not in text:
        return Dialect(separator, "plain", header)
    if separator == " " or len(separator) > 1:  # no program that quotes writes these
        return Dialect(separator, "plain", header)
    decoded = text.decode()
    standard = Dialect(separator, "standard", header)
    problem = _problem(records(decoded, standard), width)
    if not problem and (separator != "\t" or _as_written(decoded, standard)):
        if line := _doubtful(decoded, standard, width):
            raise DataError(
                f"{path}: line {line}: quotes can be read in two ways, which differ in where rows "
                'end; double the quotes inside fields ("12"" plate"), and write the file '
                "without line breaks in fields"
            )
        return standard
    misfit = problem
    for quoting in _by_line(decoded, separator, header):
        dialect = Dialect(separator, quoting, header)
        misfit = _first_misfit(decoded, dialect, width)
        if misfit is None:
            return dialect
    line, what = misfit or (1, "the rows cannot be told apart")
    raise DataError(
        f"{path}: line {line}: {what}, and quotes do not explain it: quote fields that hold the "
        'separator, and double the quotes inside them ("12"" plate")'
    )


def read_frame(text: bytes, dialect: Dialect, width: int) -> pl.DataFrame | None:
    """All rows that are not blank, as String columns "0", "1", …, empty fields null.

    Returns:
        None if a row has more fields than ``width``.
    """
    body = text
    if dialect.header:
        line = next(records(text.decode(), dialect), (0, []))[0]
        body = text.split(b"\n", line)[-1] if line and text.count(b"\n") >= line else b""
    if len(dialect.separator.encode()) > 1 and _STAND_IN.encode() not in body:
        body = body.replace(dialect.separator.encode(), _STAND_IN.encode())
        dialect = replace(dialect, separator=_STAND_IN)
    quick = dialect.quoting == "plain" or not _stray_quotes(body, dialect.separator)
    fits = dialect.separator != " " and len(dialect.separator.encode()) == 1
    if dialect.quoting in ("plain", "standard") and fits and quick:
        return _by_polars(body, dialect, width)
    rows = [fields for _, fields in records(body.decode(), dialect)]
    if any(len(fields) > width for fields in rows):
        return None
    columns = zip(*(fields + [""] * (width - len(fields)) for fields in rows), strict=True)
    filled = {str(n): [field or None for field in column] for n, column in enumerate(columns)}
    return pl.DataFrame(filled, schema={str(n): pl.String for n in range(width)})


def too_wide(text: bytes, dialect: Dialect, width: int) -> tuple[int, int] | None:
    """Line and number of fields of the first record with too many."""
    for line, fields in records(text.decode(errors="ignore"), dialect):
        if len(fields) > width:
            return line, len(fields)
    return None


def _stray_quotes(text: bytes, separator: str) -> bool:
    """Whether there is a lone quote in the middle of a field, which parsers read differently."""
    edge = re.escape(separator.encode()) + rb'\n"'
    return re.search(rb'[^%b]"[^%b]' % (edge, edge), text) is not None


def _by_polars(body: bytes, dialect: Dialect, width: int) -> pl.DataFrame | None:
    # a header of its own, so that a short first row does not set the number of columns
    header = dialect.separator.join(map(str, range(width))) + "\n"
    try:
        frame = pl.read_csv(
            header.encode() + body,
            infer_schema=False,
            separator=dialect.separator,
            quote_char='"' if dialect.quoting == "standard" else None,
        )
    except pl.exceptions.PolarsError:
        return None
    return frame.filter(~pl.all_horizontal(pl.all().fill_null("").str.strip_chars(BLANK) == ""))


def _problem(found: Iterator[Record], width: int) -> tuple[int, str] | None:
    """The first record that is not a proper row, and why."""
    last = 0
    try:
        for line, fields in found:
            last = line
            if len(fields) > width:
                return line, f"found {len(fields)} fields, expected {width} as in the header"
    except (csv.Error, ValueError) as error:
        return last + 1, f"a quote stands where none can stand ({error})"
    return None


def _by_line(text: str, separator: str, header: bool) -> tuple[Quoting, ...]:
    """Rules that read line by line and may explain a file.

    TSV mostly has no quoting, so that quotes belong to the text. But if every field of a column is
    in quotes, they are quoting.
    """
    if separator != "\t":
        return ("backslash", "loose")
    plain = (fields for _, fields in records(text, Dialect(separator, "plain", header)))
    body = list(itertools.islice(plain, int(header), None))
    columns = itertools.zip_longest(*body, fillvalue="")
    wrapped = any(all(len(f) > 1 and f[0] == f[-1] == '"' for f in column) for column in columns)
    return ("backslash", "loose") if wrapped else ("plain",)


def _first_misfit(text: str, dialect: Dialect, width: int) -> tuple[int, str] | None:
    """The first line that is not a whole row under a rule that reads line by line."""
    try:
        for line, fields in records(text, dialect):
            if len(fields) != width:
                return line, f"found {len(fields)} fields, expected {width} as in the header"
    except ValueError as error:
        return int(str(error)), "a quote is opened and not closed"
    return None


def _doubtful(text: str, dialect: Dialect, width: int) -> int | None:
    """The first line where the standard rule is probably wrong, though it explains the whole file.

    There are two signs: a record over several lines, most of which look like rows by themselves;
    and rows that end on other lines if a backslash before a quote is read as an escape.
    """
    lines = text.split("\n")
    before = 0
    for line, fields in records(text, dialect):
        whole = [part.count(dialect.separator) == width - 1 for part in lines[before:line]]
        spans = any("\n" in field for field in fields)
        if spans and width > 1 and 2 * sum(whole) > len(whole):
            return before + 1
        before = line
    if '\\"' not in text:
        return None
    escaped = csv.reader(
        io.StringIO(text, newline="\n"),
        delimiter=dialect.separator, doublequote=False, escapechar="\\", strict=True,
    )  # fmt: skip
    try:
        other = [(escaped.line_num, len(f)) for f in escaped if not is_blank(f)]
    except csv.Error:
        return None
    ours = [line for line, _ in records(text, dialect)]
    if [end for end, _ in other] == ours or any(count != width for _, count in other):
        return None
    pairs = zip(ours, other, strict=False)
    return next((line for line, (end, _) in pairs if line != end), ours[-1])


def _as_written(text: str, dialect: Dialect) -> bool:
    """Whether a program would have written the rows like this: one that quotes only fields that
    must be quoted, or these and whole columns."""
    found = list(records(text, dialect))
    start = found[0][0] if dialect.header else 0
    body = "\n".join(text.split("\n")[start:]).rstrip("\n")
    rows = [fields for _, fields in found[int(dialect.header) :]]
    if not rows:
        return True
    wholes = ([False] * len(rows[0]), _quoted_columns(body, rows[0]))
    return any(
        "\n".join(_written(row, whole, dialect.separator) for row in rows) == body
        for whole in wholes
    )


def _quoted_columns(body: str, first: Sequence[str]) -> list[bool]:
    """Which fields of the first row are in quotes."""
    quoted, start = [], 0
    for field in first:
        quoted.append(body.startswith('"', start))
        start += len(_in_quotes(field) if quoted[-1] else field) + 1
    return quoted


def _written(row: Sequence[str], whole: Sequence[bool], separator: str) -> str:
    """A row as text; fields of ``whole`` columns are quoted, others only if they must be."""
    padded = (*whole, *[False] * (len(row) - len(whole)))
    return separator.join(
        _in_quotes(field) if quote or any(c in field for c in (separator, '"', "\n")) else field
        for field, quote in zip(row, padded, strict=False)
    )


def _in_quotes(field: str) -> str:
    return '"' + field.replace('"', '""') + '"'
