"""Tables in TSV, CSV, JSON lines and Parquet: chosen columns, and the place of every row.

Reading is vectorised (polars). Only if something is wrong, a second, slow pass looks for the line
to name. What else delimited text needs is in :mod:`lumos_core.data.reading.delimited`.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from lumos_core.data.layout import FORMATS, OTHER_FORMATS, TableFormat
from lumos_core.data.reading import delimited
from lumos_core.data.reading.other_json import other_json
from lumos_core.data.reading.quoting import Dialect, records
from lumos_core.data.reading.text_files import check_file, read_text, shown, text_blocks
from lumos_core.errors import DataError

_USUAL = {"tsv": "\t", "csv": ","}
_JSON_SNIFFED = 10_000  # records whose keys are taken for the columns
_SHOWN_ROWS = 50


@dataclass(frozen=True)
class TextFormat:
    """What the user says about a delimited text file.

    Attributes:
        separator: as in :class:`Dialect`; empty: found from the content.
        header: whether the first line names the columns; if not, they are "1", "2", ….
    """

    separator: str = ""
    header: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of a file.

    Attributes:
        frame: the rows; columns may be transformed as long as rows stay where they are.
        dialect: of a delimited text file.
        columns: name in the frame -> name in the file.
        warnings: what the user should know about how it was read, a sentence each.
        missing: how many rows were left out because they lack something, by reason.
        origin: number of the record (from 0) that every row was made from; None if it is the row's
            own number.
    """

    path: Path
    format: TableFormat
    frame: pl.DataFrame
    dialect: Dialect | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    missing: Mapping[str, int] = field(default_factory=dict)
    origin: pl.Series | None = None

    def with_frame(self, frame: pl.DataFrame) -> "Table":
        """The same rows with other columns."""
        return replace(self, frame=frame)

    def only(self, rows: pl.Series) -> "Table":
        """The table with some of its rows: those with a true flag."""
        own = pl.Series(range(len(rows)), dtype=pl.Int64) if self.origin is None else self.origin
        return replace(self, frame=self.frame.filter(rows), origin=own.filter(rows))

    def warn(self, *warnings: str) -> "Table":
        """The same table with more warnings."""
        return replace(self, warnings=(*self.warnings, *warnings))

    def place(self, row: int) -> str:
        """Where row ``row`` (from 0) of the frame is: ``FILE: line 7`` (Parquet: ``row 7``)."""
        record = row if self.origin is None else int(self.origin[row])
        if self.format == "parquet":
            return f"{self.path}: row {record + 1}"
        line = next(itertools.islice(record_lines(self), record, None), None)
        if line is None:
            raise _changed(self.path)
        return f"{self.path}: line {line}"


def table_format(path: Path) -> TableFormat:
    """The format that a file's suffix stands for (a trailing ``.gz`` is ignored). With a suffix
    that stands for none it is text: JSON lines if it begins with an object, else delimited.

    Raises:
        DataError: for a suffix of another format; or there is no such file.
    """
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if suffix in FORMATS:
        return FORMATS[suffix]
    if suffix in OTHER_FORMATS:
        raise DataError(
            f"{path}: unknown suffix {suffix!r}, expected delimited text, JSON lines (both also "
            f"with .gz) or Parquet; {OTHER_FORMATS[suffix]}"
        )
    _, block = next(text_blocks(path, 2**16))
    return "jsonl" if block.lstrip().startswith(b"{") else "tsv"


def column_names(path: Path, text_format: TextFormat | None = None) -> list[str]:
    """Column names of a table (JSON lines: keys of the first 10,000 records).

    Args:
        path: the table.
        text_format: what is known about a delimited text file.

    Raises:
        DataError: if the file is missing or broken.
    """
    match table_format(path):
        case "parquet":
            try:
                return list(pl.read_parquet_schema(check_file(path)))
            except pl.exceptions.PolarsError as error:
                raise _not_parquet(path, error) from None
        case "jsonl":
            some = itertools.islice(_json_records(path), _JSON_SNIFFED)
            names = list(dict.fromkeys(key for _, record in some for key in record))
            if not names:
                raise DataError(f"{path}: no record, expected one JSON object per line")
            return names
        case _:
            known = text_format or TextFormat()
            separator, block = _separator(path, known)
            return delimited.column_names(path, block, separator, known.header)


def first_rows(path: Path, text_format: TextFormat | None = None) -> list[list[str]]:
    """Fields of the first lines of a delimited text file, the header included.

    Args:
        path, text_format: as for :func:`column_names`.

    Raises:
        DataError: if the file is missing or broken.
    """
    separator, block = _separator(path, text_format or TextFormat())
    return delimited.first_rows(block, separator, _SHOWN_ROWS)


def _separator(path: Path, known: TextFormat) -> tuple[str, bytes]:
    """The separator of a delimited text file, and the file's beginning."""
    _, block = next(text_blocks(path, 2**20))
    found = known.separator or delimited.find_separator(block, _USUAL[table_format(path)])
    return found, block


def read_table(
    path: Path, columns: Mapping[str, str], text_format: TextFormat | None = None
) -> Table:
    """Read the chosen columns.

    Args:
        path: a TSV, CSV, JSON lines (each also gzipped) or Parquet file.
        columns: new name → name in the file (one of :func:`column_names`).
        text_format: what is known about a delimited text file.

    Returns:
        A table with the new names; text formats give String columns, empty fields null. Blank
        lines are skipped.

    Raises:
        DataError: naming file and line if the file is broken or holds no row.
    """
    kind = table_format(path)
    dialect = None
    if kind == "parquet":
        frame = _read_parquet(path, columns)
    elif kind == "jsonl":
        frame = _read_json_lines(path, columns)
    else:
        frame, dialect = _read_delimited(path, kind, columns, text_format or TextFormat())
    if frame.is_empty():
        raise DataError(f"{path}: no data rows, expected at least one")
    return Table(path, kind, frame, dialect, dict(columns))


def record_lines(table: Table) -> Iterator[int]:
    """The number of the last line of every record of a text file; slow, but exact."""
    if table.format == "jsonl":
        return (number for number, _ in _json_records(table.path))
    return itertools.islice(_all_records(table), int(_has_header(table)), None)


def without_records(table: Table, gone: pl.Series) -> bytes:
    """The text of a file without some of its records; every other line stays as it is.

    Args:
        table: rows of a text file as it was read, none left out.
        gone: a flag per row.

    Raises:
        DataError: the file is not the same any more.
    """
    lines = read_text(table.path).splitlines(keepends=True)
    start = next(_all_records(table), 0) if _has_header(table) else 0
    kept = lines[:start]
    ends = list(record_lines(table))
    if len(ends) != len(gone):
        raise _changed(table.path)
    for end, is_gone in zip(ends, gone, strict=True):
        if not is_gone:
            kept += lines[start:end]
        start = end
    return b"".join(kept)


def first_true(mask: pl.Series) -> int:
    """Row of the first true value of a mask that has one."""
    row = mask.arg_max()
    assert row is not None
    return row


def refuse_rows(table: Table, bad: pl.Series, problem: str, raw: pl.Series) -> None:
    """Refuse a table in which a row is bad.

    Args:
        bad: a flag per row.
        problem: what is wrong, what was expected, what to do.
        raw: the values as they are in the file.

    Raises:
        DataError: naming the first bad row and what was found there.
    """
    if bad.any():
        row = first_true(bad)
        found = "nothing" if raw[row] is None else shown(raw[row])
        raise DataError(f"{table.place(row)}: found {found}: {problem}")


def _read_parquet(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(check_file(path), columns=list(set(columns.values())))
    except pl.exceptions.PolarsError as error:
        raise _not_parquet(path, error) from None
    return frame.select(pl.col(old).alias(new) for new, old in columns.items())


def _not_parquet(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0]
    return DataError(f"{path}: not a readable Parquet file ({reason}); write or copy it again")


def read_headerless(path: Path, names: Sequence[str]) -> Table:
    """Read a TSV file that has no header line.

    Returns:
        A table with String columns of the given names, empty fields null.

    Raises:
        DataError: naming file and line if the file is broken, holds no row, or a row has another
            number of fields.
    """
    dialect = Dialect("\t", "plain", header=False)
    frame = _parse(path, read_text(path), dialect, len(names))
    frame.columns = list(names)
    table = Table(path, "tsv", frame, dialect)
    if frame.is_empty():
        raise DataError(f"{path}: no data rows, expected at least one")
    return table


def _read_delimited(
    path: Path, kind: TableFormat, columns: Mapping[str, str], known: TextFormat
) -> tuple[pl.DataFrame, Dialect]:
    text = read_text(path)
    separator = known.separator or delimited.find_separator(text, _USUAL[kind])
    names = delimited.column_names(path, text, separator, known.header)
    dialect = delimited.find_dialect(path, text, separator, known.header, len(names))
    frame = _parse(path, text, dialect, len(names))
    if not set(columns.values()) <= set(names):
        raise _changed(path)
    chosen = frame.select(pl.col(str(names.index(old))).alias(new) for new, old in columns.items())
    return chosen, dialect


def _changed(path: Path) -> DataError:
    """The error if a file that is read more than once was not the same each time."""
    return DataError(f"{path}: the file has changed while it was read; try again when it is whole")


def _parse(path: Path, text: bytes, dialect: Dialect, width: int) -> pl.DataFrame:
    """The rows of a file, columns named "0", "1", …."""
    frame = delimited.read_frame(text, dialect, width)
    if frame is not None:
        return frame
    line, found = delimited.too_wide(text, dialect, width) or (1, 0)
    raise DataError(
        f"{path}: line {line}: found {found} fields, expected {width} as in the header; quote or "
        "remove the extra separator"
        if dialect.header
        else f"{path}: line {line}: found {found} fields, expected {width}; remove the extra "
        "separator"
    )


def _read_json_lines(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    schema = dict.fromkeys(columns.values(), pl.String)
    frames = []
    for line, block in text_blocks(path):
        try:
            frames.append(pl.read_ndjson(block, schema=schema) if block.strip() else None)
        except pl.exceptions.PolarsError as error:
            for _ in _parse_lines(path, line, block):  # names the broken line
                pass
            raise _not_json(path, line, block, schema, error) from None
    found = [frame for frame in frames if frame is not None]
    if not found:  # there was a record when the names of the columns were read
        raise _changed(path)
    frame = pl.concat(found)
    for new, old in columns.items():
        if new != "title":  # a list of texts is as good a text as any
            _refuse_nested(path, old, frame[old])
    return frame.select(pl.col(old).alias(new) for new, old in columns.items())


def _refuse_nested(path: Path, name: str, values: pl.Series) -> None:
    """Refuse objects and lists where a value is expected; polars reads both as their text."""
    rows = set((values.str.starts_with("{") | values.str.starts_with("[")).arg_true().to_list())
    if not rows:
        return
    for row, (number, record) in enumerate(_json_records(path)):
        if row in rows and isinstance(record.get(name), dict | list):
            kind = "object" if isinstance(record[name], dict) else "list"
            raise DataError(
                f"{path}: line {number}: found {shown(json.dumps(record[name]))}: {name} is a JSON "
                f"{kind}, expected text or a number; write what is in it"
            )


def _not_json(
    path: Path, first: int, block: bytes, schema: Mapping[str, Any], error: Exception
) -> DataError:
    """The error about a line that is JSON for Python but not for polars: ``NaN``, ``1e400``."""
    for number, line in enumerate(block.split(b"\n"), start=first):
        try:
            if line.strip():
                pl.read_ndjson(line, schema=schema)
        except pl.exceptions.PolarsError as problem:
            return DataError(
                f"{path}: line {number}: not JSON ({problem}); expected one JSON object per line, "
                "with finite numbers"
            )
    return DataError(f"{path}: line {first} or after: {error}; expected JSON lines")


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank."""
    for first, block in text_blocks(path):
        yield from _parse_lines(path, first, block)


def _parse_lines(path: Path, first: int, block: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(block.split(b"\n"), start=first):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise other_json(path, number, line) or DataError(
                f"{path}: line {number}: not JSON ({error}); expected one JSON object per line"
            ) from None
        if not isinstance(record, dict):
            raise other_json(path, number, line) or DataError(
                f"{path}: line {number}: found a JSON {type(record).__name__}, expected one JSON "
                "object per line (JSON lines)"
            )
        yield number, record


def _has_header(table: Table) -> bool:
    return table.dialect is not None and table.dialect.header


def _all_records(table: Table) -> Iterator[int]:
    """The last lines of all records of delimited text, the header included."""
    assert table.dialect is not None
    found = records(read_text(table.path).decode(errors="ignore"), table.dialect)
    return (line for line, _ in found)
