"""What server and node supervisors have in common."""

import io
import os
import re
from pathlib import Path

import pytest
from rich.console import Console

from lumos_core.deployment.supervision import say

TIMED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d connected\n")


@pytest.mark.parametrize(("own", "timed"), [(True, False), (False, True)])
def test_the_time_of_a_line_is_not_in_the_journal_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool, timed: bool
) -> None:
    with (tmp_path / "stream").open("w+") as stream, (tmp_path / "other").open("w") as other:
        journal = os.fstat((stream if own else other).fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{journal.st_dev}:{journal.st_ino}")
        say(Console(file=stream), "connected")
        stream.seek(0)
        text = stream.read()
    assert bool(TIMED.fullmatch(text)) == timed
    assert text.endswith("connected\n")
    assert timed or text == "connected\n"


@pytest.mark.parametrize("journal", ["", "8:1"])
def test_lines_elsewhere_have_the_time(monkeypatch: pytest.MonkeyPatch, journal: str) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", journal)
    memory = io.StringIO()
    say(Console(file=memory), "connected")
    assert TIMED.fullmatch(memory.getvalue())
