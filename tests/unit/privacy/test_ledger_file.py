"""All lines of a ledger are read, in order, also those of full ledgers that were put aside."""

import gzip
from pathlib import Path

import pytest

from lumos_core.errors import DataError
from lumos_core.privacy import ledger_file
from lumos_core.privacy.ledger_file import FILE, read_lines, write_line


def numbers(folder: Path) -> list[int]:
    return [line["number"] for line in read_lines(folder)]


def test_no_ledger_has_no_lines(tmp_path: Path) -> None:
    assert list(read_lines(tmp_path)) == []


def test_lines_of_full_ledgers_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "LIMIT_BYTES", 120)
    for number in range(30):
        write_line(tmp_path, {"number": number})
    assert len(list(tmp_path.glob("ledger-*.gz"))) >= 11, "more than one digit, in one second"
    assert numbers(tmp_path) == list(range(30))


def test_a_ledger_that_a_crash_left_in_both_forms_is_read_once(tmp_path: Path) -> None:
    write_line(tmp_path, {"number": 0})
    old = tmp_path / "ledger-20260101T000000Z.jsonl"
    (tmp_path / FILE).rename(old)
    old.with_name(f"{old.name}.gz").write_bytes(gzip.compress(old.read_bytes()))
    write_line(tmp_path, {"number": 1})
    assert numbers(tmp_path) == [0, 1]


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_damaged_line_is_named(tmp_path: Path, text: str) -> None:
    write_line(tmp_path, {"number": 0})
    with (tmp_path / FILE).open("a") as file:
        file.write(f"{text}\n")
    with pytest.raises(DataError, match=r"ledger\.jsonl: line 2: found .*expected a JSON object"):
        numbers(tmp_path)


def test_a_damaged_old_ledger_is_named(tmp_path: Path) -> None:
    content = gzip.compress(b'{"number": 0}\n' * 100)
    (tmp_path / "ledger-20260101T000000Z.jsonl.gz").write_bytes(content[:-12])
    with pytest.raises(DataError, match=r"ledger-2026.*\.gz: cannot be read"):
        numbers(tmp_path)
