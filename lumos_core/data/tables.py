"""Tables in TSV, CSV, JSON lines and Parquet: chosen columns, and the place of every row.

Reading is vectorised (polars); only once something is wrong does a second, slow pass look for the
line to name.
"""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from lumos_core.data.files import check_file, read_text, text_blocks
from lumos_core.data.folder import FORMATS, TableFormat
from lumos_core.errors import DataError


@dataclass(frozen=True)
class Table:
    """Rows of a file.

    Attributes:
        frame: the rows; columns may be transformed as long as rows stay where they are.
        header: whether a delimited text file starts with the names of its columns.
        origin: number of the record (from 0) that every row was made of, where that is not simply
            the row's own number.
    """

    path: Path
    format: TableFormat
    frame: pl.DataFrame
    header: bool = True
    origin: pl.Series | None = None

    def with_frame(self, frame: pl.DataFrame) -> "Table":
        """The same rows with other columns."""
        return replace(self, frame=frame)

    def place(self, row: int) -> str:
        """Where row ``row`` (from 0) of the frame stands: ``FILE: line 7`` (Parquet: row 7)."""
        record = row if self.origin is None else int(self.origin[row])
        if self.format == "parquet":
            return f"{self.path}: row {record + 1}"
        lines = _json_lines(self.path) if self.format == "jsonl" else _record_lines(self)
        return f"{self.path}: line {next(itertools.islice(lines, record, None))}"


def table_format(path: Path) -> TableFormat:
    """The format that a file's suffix stands for (a trailing ``.gz`` is looked through).

    Raises:
        DataError: for an unknown suffix.
    """
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if suffix not in FORMATS:
        raise DataError(
            f"{path}: unknown suffix {suffix!r}, expected one of {', '.join(FORMATS)} "
            "(text formats also with .gz); rename or convert the file"
        )
    return FORMATS[suffix]


def column_names(path: Path) -> list[str]:
    """Column names of a table (JSON lines: keys of the first record).

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
            first = next(_json_records(path), None)
            if first is None:
                raise DataError(f"{path}: no record, expected one JSON object per line")
            return list(first[1])
        case text:
            _, block = next(text_blocks(path, 2**20))
            header: list[str] = next((record for record in _reader(block, text) if any(record)), [])
            return [name.strip() for name in header]


def read_table(path: Path, columns: Mapping[str, str]) -> Table:
    """Read the chosen columns.

    Args:
        path: a TSV, CSV, JSON lines (each also gzipped) or Parquet file.
        columns: new name → name in the file (one of :func:`column_names`).

    Returns:
        A table with the new names; text formats give String columns, empty fields null. Blank
        lines are skipped.

    Raises:
        DataError: naming file and line if the file is broken or holds no row.
    """
    kind = table_format(path)
    if kind == "parquet":
        frame = _read_parquet(path, columns)
    elif kind == "jsonl":
        frame = _read_json_lines(path, columns)
    else:
        frame = _read_delimited(path, kind, columns)
    if frame.is_empty():
        raise DataError(f"{path}: no data rows, expected at least one")
    return Table(path, kind, frame)


def first_true(mask: pl.Series) -> int:
    """Row of the first true value of a mask that has one."""
    row = mask.arg_max()
    assert row is not None
    return row


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
    text = read_text(path)
    frame = _parse(path, text, text, "tsv", len(names))
    frame.columns = list(names)
    table = Table(path, "tsv", frame, header=False)
    if frame.is_empty():
        raise DataError(f"{path}: no data rows, expected at least one")
    return table


def _read_delimited(path: Path, kind: TableFormat, columns: Mapping[str, str]) -> pl.DataFrame:
    text = read_text(path)
    names = column_names(path)
    frame = _parse(path, text, _after_header(text, kind), kind, len(names))
    return frame.select(pl.col(str(names.index(old))).alias(new) for new, old in columns.items())


def _parse(path: Path, text: bytes, body: bytes, kind: TableFormat, width: int) -> pl.DataFrame:
    """The rows of ``body``, columns named "0", "1", …; ``text`` is the file, to name lines of."""
    separator = "\t" if kind == "tsv" else ","
    header = separator.join(map(str, range(width))) + "\n"  # so that a short first row is no norm
    try:
        frame = pl.read_csv(
            header.encode() + body,
            infer_schema=False,
            separator=separator,
            quote_char=None if kind == "tsv" else '"',
        )
    except pl.exceptions.PolarsError as error:
        raise _ragged(path, text, kind, width, error) from None
    return frame.filter(~pl.all_horizontal(pl.all().fill_null("") == ""))


def _after_header(text: bytes, kind: TableFormat) -> bytes:
    reader = _reader(text[: 2**20], kind)
    for record in reader:
        if any(record):
            break
    return text.split(b"\n", reader.line_num)[-1] if reader.line_num else b""


def _ragged(
    path: Path, text: bytes, kind: TableFormat, expected: int, error: Exception
) -> DataError:
    reader = _reader(text, kind)
    for record in reader:
        if len(record) > expected:
            return DataError(
                f"{path}: line {reader.line_num}: found {len(record)} fields, expected {expected} "
                "as in the header; quote or remove the extra separator"
            )
    return DataError(f"{path}: not readable as {kind.upper()} ({str(error).splitlines()[0]})")


def _read_json_lines(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    schema = dict.fromkeys(columns.values(), pl.String)
    frames = []
    for line, block in text_blocks(path):
        try:
            frames.append(pl.read_ndjson(block, schema=schema) if block.strip() else None)
        except pl.exceptions.PolarsError as error:
            for _ in _parse_lines(path, line, block):  # names the broken line
                pass
            raise DataError(f"{path}: line {line} or after: {error}; expected JSON lines") from None
    frame = pl.concat(f for f in frames if f is not None)
    return frame.select(pl.col(old).alias(new) for new, old in columns.items())


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
            raise DataError(
                f"{path}: line {number}: not JSON ({error}); expected one JSON object per line"
            ) from None
        if not isinstance(record, dict):
            raise DataError(
                f"{path}: line {number}: found a JSON {type(record).__name__}, expected one JSON "
                "object per line (JSON lines)"
            )
        yield number, record


def _json_lines(path: Path) -> Iterator[int]:
    return (number for number, _ in _json_records(path))


def _record_lines(table: Table) -> Iterator[int]:
    reader = _reader(read_text(table.path), table.format)
    lines = (reader.line_num for record in reader if any(record))
    return itertools.islice(lines, int(table.header), None)


def _reader(text: bytes, kind: TableFormat) -> Any:
    """A csv reader over decoded text; TSV has no quoting, so that titles may hold quotes."""
    csv.field_size_limit(2**31 - 1)
    lines = io.StringIO(text.decode(errors="ignore"), newline="\n")
    if kind == "tsv":
        return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    return csv.reader(lines)
