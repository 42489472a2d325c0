"""The ledger begins a new file when it is full, and no line is lost, split or deleted."""

import gzip
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flower_in_process import identify, set_message_id
from flwr.app import Message, MetricRecord, RecordDict

from client_app import ledger
from client_app.error_codes import LedgerError
from lumos_core.privacy import ledger_file

ROOT = Path(__file__).resolve().parents[3]
WRITER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from flwr.app import MetricRecord, RecordDict
from client_app import ledger
from lumos_core.privacy import ledger_file

folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ledger_file.LIMIT_BYTES = 2000
metadata = SimpleNamespace(run_id=1, message_type=name)
reply = SimpleNamespace(metadata=metadata, content=RecordDict({"metrics": MetricRecord({"a": 1})}))
for number in range(count):
    ledger.append(folder, reply, number)
"""


def reply() -> Message:
    identify()
    content = RecordDict({"metrics": MetricRecord({"loss": 1.0, "users": 3})})
    question = set_message_id(Message(content, 100, "train", ttl=60.0), "m1")
    return Message(content, reply_to=question)


def lines_of(path: Path) -> list[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def rounds(folder: Path) -> list[int]:
    """Rounds of all lines, in the order in which an owner lists the files."""
    files = [*sorted(folder.glob("ledger-*")), folder / ledger_file.FILE]
    return [line["round"] for path in files for line in lines_of(path)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "LIMIT_BYTES", 400)


@pytest.mark.usefixtures("small", "usual_umask")
def test_a_full_ledger_is_compressed_and_a_new_one_begins(tmp_path: Path) -> None:
    for number in range(9):
        ledger.append(tmp_path, reply(), number)
    assert sorted(rounds(tmp_path)) == list(range(9))
    old = list(tmp_path.glob("ledger-*"))
    assert len(old) >= 2
    name = re.compile(r"ledger-\d{8}T\d{6}Z(-\d+)?\.jsonl\.gz")
    assert all(name.fullmatch(path.name) for path in old)
    assert {path.suffix for path in old} == {".gz"}
    assert (tmp_path / ledger_file.FILE).stat().st_size <= 400
    assert {stat.S_IMODE(path.stat().st_mode) for path in old} == {0o600}


def test_up_to_its_bound_a_ledger_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.append(tmp_path, reply(), 0)
    size = (tmp_path / ledger_file.FILE).stat().st_size
    monkeypatch.setattr(ledger_file, "LIMIT_BYTES", 3 * size)
    ledger.append(tmp_path, reply(), 1)
    ledger.append(tmp_path, reply(), 2)
    assert list(tmp_path.glob("ledger-*")) == []
    ledger.append(tmp_path, reply(), 3)
    [old] = tmp_path.glob("ledger-*")
    assert [line["round"] for line in lines_of(old)] == [0, 1, 2]
    assert [line["round"] for line in lines_of(tmp_path / ledger_file.FILE)] == [3]


def test_a_line_longer_than_the_bound_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_file, "LIMIT_BYTES", 10)
    ledger.append(tmp_path, reply(), 0)
    assert rounds(tmp_path) == [0]
    assert list(tmp_path.glob("ledger-*")) == []


@pytest.mark.usefixtures("small")
def test_what_cannot_be_compressed_stays_until_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger_file.gzip, "open", full)
    for number in range(5):
        ledger.append(tmp_path, reply(), number)
    plain = list(tmp_path.glob("ledger-*"))
    assert plain
    assert {path.suffix for path in plain} == {".jsonl"}
    assert sorted(rounds(tmp_path)) == list(range(5))
    monkeypatch.undo()
    monkeypatch.setattr(ledger_file, "LIMIT_BYTES", 400)
    for number in range(5, 10):
        ledger.append(tmp_path, reply(), number)
    assert {path.suffix for path in tmp_path.glob("ledger-*")} == {".gz"}
    assert sorted(rounds(tmp_path)) == list(range(10))
    assert not list(tmp_path.glob(".ledger-*"))


@pytest.mark.usefixtures("small")
def test_a_crash_between_compressing_and_removing_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        """Not an Exception: nothing may swallow it."""

    def killed(path: Path) -> None:
        raise KilledError

    monkeypatch.setattr(ledger_file.Path, "unlink", killed)
    ledger.append(tmp_path, reply(), 0)
    monkeypatch.setattr(ledger_file, "LIMIT_BYTES", (tmp_path / ledger_file.FILE).stat().st_size)
    with pytest.raises(KilledError):
        ledger.append(tmp_path, reply(), 1)
    monkeypatch.undo()
    monkeypatch.setattr(ledger_file, "LIMIT_BYTES", 400)
    assert {path.suffix for path in tmp_path.glob("ledger-*")} == {".jsonl", ".gz"}
    for number in range(2, 7):
        ledger.append(tmp_path, reply(), number)
    assert {path.suffix for path in tmp_path.glob("ledger-*")} == {".gz"}
    assert sorted(rounds(tmp_path)) == list(range(7))


def test_processes_that_append_at_the_same_time_lose_and_split_no_line(tmp_path: Path) -> None:
    count, names = 60, ("a", "b", "c")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name, str(count)], env=environment
        )
        for name in names
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    files = [*tmp_path.glob("ledger-*"), tmp_path / ledger_file.FILE]
    found = [(line["message"], line["round"]) for path in files for line in lines_of(path)]
    assert len(files) > 5
    assert sorted(found) == [(name, number) for name in names for number in range(count)]


def test_a_ledger_that_another_process_keeps_is_an_error_and_nothing_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_file, "LOCK_SECONDS", 0.1)
    with (
        ledger_file.exclusive(ledger_file.lock_beside(tmp_path / ledger_file.FILE)),
        pytest.raises(LedgerError, match=r"ledger\.jsonl: cannot be written: "),
    ):
        ledger.append(tmp_path, reply(), 0)
    assert not (tmp_path / ledger_file.FILE).exists()
