"""``connection.json``, which health checks read."""

import os
from pathlib import Path

from lumos_core.deployment.connection_file import CONNECTION, ConnectionFile, ConnectionWriter


def test_it_holds_the_last_state(tmp_path: Path) -> None:
    writer = ConnectionWriter(tmp_path)
    for state in ("starting", "connected", "silent"):
        writer.note(state)
        assert ConnectionFile.read(tmp_path / CONNECTION).state == state
    assert (tmp_path / CONNECTION).stat().st_mode & 0o777 == 0o600


def test_it_is_written_when_the_state_changes_and_not_otherwise(tmp_path: Path) -> None:
    writer = ConnectionWriter(tmp_path)
    writer.note("connected")
    os.remove(tmp_path / CONNECTION)
    writer.note("connected")
    assert not (tmp_path / CONNECTION).exists()
    writer.note("silent")
    assert (tmp_path / CONNECTION).exists()


def test_a_disk_that_refuses_it_is_no_error_and_it_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.touch()  # not a folder: nothing can be written below it
    writer = ConnectionWriter(folder)
    writer.note("connected")
    folder.unlink()
    folder.mkdir()
    writer.note("connected")
    assert ConnectionFile.read(folder / CONNECTION).state == "connected"
