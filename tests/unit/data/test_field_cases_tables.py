"""Logs that people have: every row of them, in the right order, or a line and what to do.

Each lies in ``tests/data/cases`` and is prepared by the command line, as somebody would.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

CASES = Path(__file__).parents[2] / "data" / "cases"
Prepare = Callable[..., Result]


def rows(out: Path) -> list[str]:
    """What a node gets, a row an interaction: ``user item time``."""
    lines = (out / "node-0" / "interactions.tsv").read_text("utf-8").splitlines()
    assert lines[0] == "user_id\titem_id\ttimestamp"
    return [line.replace("\t", " ") for line in lines[1:]]


def titles(out: Path) -> list[str]:
    lines = (out / "catalog.tsv").read_text("utf-8").splitlines()
    return [line.partition("\t")[2] for line in lines[1:]]


SIX = [f"u1 i{n} {n}" for n in range(1, 7)]
ABC = ["u1 a 1", "u1 b 2", "u1 c 3"]
READ: dict[str, tuple[list[str], list[str], list[str] | None]] = {
    # K2: no row is swallowed by a quote
    "csv_mysql_log": (["csv_mysql_log/log.csv"], SIX, None),
    "csv_mysql_log, titles": (
        ["csv_mysql_log/log.csv", "--title-column", "product_title"],
        SIX,
        ['TV 32"', "Radio", 'Lamp 9"', "Chair", "Desk", "Bed"],
    ),
    "csv_naive_log": (
        ["csv_naive_log/log.csv", "--title-column", "product_title"],
        SIX,
        ['TV 32"', "Radio", 'Lamp 9"', "Chair", "Desk", "Bed"],
    ),
    "csv_mysql_end": (
        ["csv_mysql_end"], SIX, ['TV 32"', "Radio", 'Lamp 9"', "Chair", "Desk", "Bed"]
    ),
    "csv_backslash_quote": (["csv_backslash_quote"], ABC, ['say "hi", now', "blue", "red"]),
    "csv_stray_quote": (["csv_stray_quote"], ABC, ['12" plate', "blue", '9" x 12" tray']),
    "csv_stray_quote_start": (
        ["csv_stray_quote_start"], ABC, ['"Blue" plate', "blue", '"red" tray']
    ),
    "csv_quote_other_col": (["csv_quote_other_col"], [*ABC, "u1 d 4", "u1 e 5"], None),
    # K4: the order of time
    "position_and_time": (
        ["position_and_time"],
        ["u1 c 1700000100", "u1 b 1700000200", "u1 a 1700000300"],
        None,
    ),
    "position_and_time, the position": (
        ["position_and_time", "--time-column", "position"],
        ["u1 b 1", "u1 c 2", "u1 a 3"],
        None,
    ),
    "pq_ns": (
        ["pq_ns"],
        ["u1 d 5", *(f"u1 {i} 158868772892300000{n}" for i, n in ("b1", "c2", "a3"))],
        None,
    ),
    "t_ns_frac2": (["t_ns_frac2"], ["u1 d 0", "u1 c 1", "u1 b 2", "u1 a 3"], None),
    "pq_f32": (["pq_f32"], [f"u1 {i} 1500000000" for i in "abcd"], None),
    # K5: who is a user
    "nan_users": (["nan_users", "--drop-missing"], ["u1 c 3", "u1 a 4", "u1 b 4"], None),
    "float_ids": (["float_ids"], ["1 10 1", "1 11 2", "1 12 3", "1 10 4"], None),
    "float_ids_drop": (["float_ids_drop"], ["1 10 1", "1 11 2", "1 12 3"], ["A", "B", "C"]),
    # K9: common inputs
    "space_txt": (
        ["space_txt/Beauty.txt", "--no-header", "--user-column", "1", "--item-column", "2",
         "--order", "file"],
        ["1 1 0", "1 2 1", "1 3 2"],
        None,
    ),
    "j_first_lacks_title": (
        ["j_first_lacks_title"], ["u1 a 0", "u1 b 1", "u1 c 2"], ["a", "B", "C"]
    ),
    # K10: separators
    "semicolon": (["semicolon"], ABC, None),
    "tsv_in_csv": (["tsv_in_csv"], ABC, None),
    "rb_csv_sep": (
        ["rb_csv_sep"], [f"196 {i} 88125094{n}" for i, n in ((4, 5), (3, 6), (2, 7), (1, 8))], None
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_is_read(prepare: Prepare, out: Path, case: str) -> None:
    arguments, expected, named = READ[case]
    result = prepare(*arguments)
    assert result.exit_code == 0, result.output
    assert rows(out) == expected
    if named is not None:
        assert titles(out) == named
    match = re.search(r"^([\d,]+) rows = ([\d,]+) kept \+ ([\d,]+) dropped", result.stdout, re.M)
    assert match is not None, "rows in = rows kept + rows dropped, always"
    read, kept, dropped = (int(text.replace(",", "")) for text in match.groups())
    assert (read, kept) == (kept + dropped, len(expected))


def test_gowalla(prepare: Prepare, out: Path) -> None:
    """No header, ISO times, later columns that nobody asked for; the published order is newest
    first."""
    log = out.parent / "checkins.txt"
    published = (CASES / "gowalla" / "Gowalla_totalCheckins.txt").read_text()
    log.write_text(published + "0\t2010-10-17T10:00:00Z\t30.2\t-97.7\t7\n")
    columns = ["--user-column", "1", "--item-column", "5", "--time-column", "2"]
    assert prepare(str(log), "--no-header", *columns).exit_code == 0
    assert rows(out) == ["0 7 1287309600", "0 420315 1287440263", "0 22847 1287532527"]


SAID = {
    "position_and_time": (["position_and_time"], "columns: users from 'user_id', items from "
                          "'item_id', times from 'time'"),
    "nan_users": (["nan_users", "--drop-missing"], "9 rows = 3 kept + 6 dropped (6 without a user"),
    "pq_f32": (["pq_f32"], "100% of the rows share their time with another row of the same user"),
    "float_ids": (["float_ids"], "ids of user_id such as '1.0' are read as whole numbers"),
    "float_ids, a duplicate": (["float_ids"], "5 rows = 4 kept + 1 dropped (1 duplicates)"),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_what_is_said(prepare: Prepare, case: str) -> None:
    arguments, text = SAID[case]
    result = prepare(*arguments)
    assert text in " ".join(result.output.split())


REFUSED = {
    "ms_s_mixed": (
        ["ms_s_mixed"],
        r"interactions.csv: line 2: found time '1700000000', which is in seconds, but line 3 has "
        r"'1500000000000', in milliseconds; expected one unit",
    ),
    "excel_sci": (["excel_sci"], r"interactions.csv: line 2: found '7.65612E\+16': .*as text"),
    "nan_users": (
        ["nan_users"],
        r"line 2: found 'nan': user_id is missing \(rows like it: 6\).*--drop-missing",
    ),
    "gowalla": (
        ["gowalla/Gowalla_totalCheckins.txt"],
        r"line 1: found 1='0' 2='2010-10-19T23:55:27Z'.*is a row and no header.*--no-header .*"
        "--item-column N --time-column 2; column 2 looks like times",
    ),
    "space_txt": (["space_txt/Beauty.txt"], r"line 1: .*--no-header .*--order file"),
    "pq_time": (["pq_time"], r"interactions.parquet: the time column has type Time"),
    "no effect: separator": (["pq_ns", "--separator", "tab"], "would have no effect"),
    "no effect: time": (
        ["semicolon", "--order", "file", "--time-column", "timestamp"], "would have no effect"
    ),
    "no such separator": (["semicolon", "--separator", "tabs"], "expected one character, or one"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(prepare: Prepare, out: Path, case: str) -> None:
    """With file, line, what was found, what to do – and nothing is written."""
    arguments, message = REFUSED[case]
    result = prepare(*arguments)
    assert result.exit_code != 0
    assert re.search(message, str(result.exception))
    assert type(result.exception).__name__ == "DataError", "never a traceback"
    assert not out.exists()
