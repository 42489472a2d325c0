"""No dialect of delimited text may swallow a row: all of them come out, or a line is named."""

import csv
import io
import re
import tempfile
from pathlib import Path

from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from lumos_core.data.reading.table_files import TextFormat, column_names, read_table
from lumos_core.errors import DataError

WIDTH = 3
HEADER = ["user_id", "item_id", "note"]
plain_field = st.text("ab1 ", min_size=1, max_size=4).map(str.strip).filter(bool)
nasty_field = st.text("ab\"\\' ,;\t|1", min_size=1, max_size=6).filter(lambda s: s.strip())
rows = st.lists(
    st.tuples(plain_field, plain_field, st.one_of(plain_field, nasty_field)), min_size=1, max_size=8
)
broken_field = st.text('ab"\\,;\n', min_size=1, max_size=6).filter(lambda s: s.strip())
broken_rows = st.lists(
    st.tuples(plain_field, plain_field, broken_field, broken_field), min_size=1, max_size=6
)


def backslash(field: str, separator: str) -> str:
    if not any(c in field for c in (separator, '"', "\\", "\n")):
        return field
    return '"' + field.replace("\\", "\\\\").replace('"', '\\"') + '"'


def naive(field: str, separator: str) -> str:
    return f'"{field}"'


def raw(field: str, separator: str) -> str:
    return field


def written(
    found: list[tuple[str, ...]], style: str, separator: str, end: str, closed: bool, mark: bool,
    header: list[str] = HEADER,
) -> bytes:  # fmt: skip
    table = [header, *map(list, found)]
    if style in ("minimal", "all"):
        out = io.StringIO(newline="")
        quoting = csv.QUOTE_ALL if style == "all" else csv.QUOTE_MINIMAL
        csv.writer(out, delimiter=separator, quoting=quoting, lineterminator=end).writerows(table)
        text = out.getvalue()
    else:
        how = {"backslash": backslash, "naive": naive, "raw": raw}[style]
        lines = (separator.join(how(f, separator) for f in row) for row in table)
        text = "".join(line + end for line in lines)
    if not closed:
        text = text.removesuffix(end)
    return (b"\xef\xbb\xbf" if mark else b"") + text.encode()


@settings(max_examples=400, deadline=None)
@given(
    found=rows,
    style=st.sampled_from(["minimal", "all", "backslash", "naive", "raw"]),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    suffix=st.sampled_from([".csv", ".tsv"]),
    end=st.sampled_from(["\n", "\r\n"]),
    closed=st.booleans(),
    mark=st.booleans(),
    told=st.booleans(),
)
def test_all_rows_come_out_or_a_line_is_named(
    found: list[tuple[str, ...]], style: str, separator: str, suffix: str, end: str, closed: bool,
    mark: bool, told: bool,
) -> None:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"log{suffix}"
        path.write_bytes(written(found, style, separator, end, closed, mark))
        known = TextFormat(separator) if told else TextFormat()
        try:
            names = column_names(path, known)
            if names != HEADER:  # a separator that was not found out: nothing is read
                assert not told or "\ufeff" not in names[0]
                return
            table = read_table(path, {name: name for name in HEADER}, known)
        except DataError as error:
            event(f"refused: {style}")
            refused = str(error)
        else:
            refused = ""
    if refused:
        assert re.search(r"log\.(csv|tsv): (line \d+|no data rows)", refused)
        return
    event(f"read: {style}")
    users = table.frame["user_id"].to_list()
    assert [u and u.strip() for u in users] == [row[0] for row in found], "a row is gone or merged"
    assert [i and i.strip() for i in table.frame["item_id"]] == [row[1] for row in found]
    quotes = any('"' in field for row in found for field in row)
    if style in ("minimal", "all") and not (quotes and separator == "\t"):
        assert [n or "" for n in table.frame["note"]] == [row[2] for row in found]


@settings(max_examples=100, deadline=None)
@given(found=rows, separator=st.sampled_from([",", ";", "|"]), breaks=st.integers(1, 3))
def test_line_breaks_in_fields_are_kept_or_named(
    found: list[tuple[str, ...]], separator: str, breaks: int
) -> None:
    nasty = [(u, i, ("x\n" * breaks) + note) for u, i, note in found]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        path.write_bytes(written(nasty, "minimal", separator, "\n", True, False))
        try:
            table = read_table(path, {n: n for n in HEADER}, TextFormat(separator))
        except DataError as error:
            table, refused = None, str(error)
    if table is None:
        assert re.search(r"line \d+", refused)
    else:
        assert table.frame.rows() == nasty


@settings(max_examples=400, deadline=None)
@given(
    found=broken_rows,
    style=st.sampled_from(["minimal", "all", "backslash"]),
    separator=st.sampled_from([",", ";", "\t"]),
    suffix=st.sampled_from([".csv", ".tsv"]),
    bare_header=st.booleans(),
)
# as many rows under either rule, but other ones
@example([("1", "1", ";", '"'), ("1", "1", '\n"', ";")], "backslash", ",", ".csv", False)
def test_quotes_and_line_breaks_in_several_columns(
    found: list[tuple[str, ...]], style: str, separator: str, suffix: str, bare_header: bool
) -> None:
    """The number of rows is right, or a line is named, whatever stands in the fields."""
    header = [*HEADER, "more"]
    text = written(found, style, separator, "\n", True, False, header)
    if bare_header:
        first = written([], style, separator, "\n", True, False, header)
        text = (separator.join(header) + "\n").encode() + text[len(first) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"log{suffix}"
        path.write_bytes(text)
        try:
            table, refused = read_table(path, {n: n for n in header}, TextFormat(separator)), ""
        except DataError as error:
            table, refused = None, str(error)
    if table is None:
        assert re.search(r"line \d+", refused)
    else:
        assert table.frame["user_id"].to_list() == [row[0] for row in found]
        if style != "backslash":
            assert table.frame.rows() == found


blank_line = st.text(" \f\xa0,", max_size=4).filter(lambda line: line.count(",") < len(HEADER))
blanks = st.lists(st.one_of(st.none(), blank_line), min_size=2, max_size=8)


@settings(max_examples=200, deadline=None)
@given(lines=blanks, separator=st.sampled_from([",", "\t", "::"]), quoted=st.booleans())
@example(["   "], ",", False)
@example([" \t \t "], "\t", False)
def test_blank_lines_are_skipped_and_counted(
    lines: list[str | None], separator: str, quoted: bool
) -> None:
    """Wherever they stand, and whatever way is taken to read: rows keep their line numbers."""
    assume(separator != "::" or not quoted)  # nobody quotes there
    rows = {n: f"r{n}" for n, line in enumerate(lines, start=2) if line is None}
    assume(rows)
    note = '"a ""b"""' if quoted else "b"
    fill = [separator.join(blank.split(",")) if blank is not None else None for blank in lines]
    text = [
        line if line is not None else separator.join([rows[n], "i", note])
        for n, line in enumerate(fill, start=2)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        path.write_text("\n".join([separator.join(HEADER), *text]) + "\n", encoding="utf-8")
        table = read_table(path, {name: name for name in HEADER}, TextFormat(separator))
        assert table.frame["user_id"].to_list() == list(rows.values())
        assert [table.place(n) for n in range(len(rows))] == [f"{path}: line {n}" for n in rows]
