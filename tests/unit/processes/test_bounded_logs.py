"""A log beyond its bound is emptied, and its end is kept beside it."""

import stat
from pathlib import Path
from typing import Any

import pytest

from lumos_core.processes import bounded_logs
from lumos_core.processes.bounded_logs import cut_back
from lumos_core.safe_files import older


def test_a_log_within_its_bound_stays(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    cut_back(log, 10)
    log.write_bytes(b"0123456789")
    cut_back(log, 10)
    assert log.read_bytes() == b"0123456789"
    assert list(tmp_path.iterdir()) == [log]


def test_the_end_of_a_long_log_is_kept_in_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    older(log).write_text("older still")
    log.write_bytes(b"a\nbb\nccc\ndddd\n")
    log.chmod(0o600)
    cut_back(log, 11)
    assert log.read_bytes() == b""
    assert older(log).read_bytes() == b"ccc\ndddd\n"
    log.write_bytes(b"one line without an end")
    cut_back(log, 4)
    assert older(log).read_bytes() == b" end"


def test_the_old_generation_is_no_more_public_than_the_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"a\nb\nc\n")
    log.chmod(0o600)
    cut_back(log, 4)
    assert stat.S_IMODE(older(log).stat().st_mode) == 0o600


@pytest.mark.usefixtures("usual_umask")
def test_a_writer_that_holds_the_log_goes_on_at_its_new_end(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"before\n" * 10)
        cut_back(log, 20)
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    assert older(log).read_bytes() == b"before\nbefore\n"


def test_a_log_that_grows_as_fast_as_it_is_copied_is_not_copied_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"a line\n" * 100)
    read = bounded_logs.os.read

    def read_and_grow(file: int, size: int) -> bytes:
        with log.open("ab") as writer:
            writer.write(b"a line\n" * 10)
        return bytes(read(file, size))

    monkeypatch.setattr(bounded_logs, "_PIECE_BYTES", 70)
    monkeypatch.setattr(bounded_logs.os, "read", read_and_grow)
    cut_back(log, 350)
    assert log.read_bytes() == b""
    assert 300 < older(log).stat().st_size <= 700


def test_a_disk_without_room_for_the_copy_does_not_keep_the_log_growing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    log = tmp_path / "x.log"
    log.write_bytes(b"a line\n" * 100)
    monkeypatch.setattr(bounded_logs, "_copy_end", full)
    cut_back(log, 70)
    assert log.read_bytes() == b""
