"""What a SuperNode's log tells: a text for each change, and none between two changes."""

from pathlib import Path

import pytest
from rich.text import Text

from lumos_core.deployment.connection_log import ConnectionLog
from lumos_core.flower import app_gate, steady_connection

ACTIVE = "INFO :      SuperNode ID: 17"
AGAIN = "INFO :      Connection successful after 12.30 seconds and 5 tries."
FLOWERS = "WARNING :   Connection attempt failed, retrying in 2.50 seconds"


def failed(status: str, seconds: float) -> str:
    return steady_connection.LINE % (status, seconds)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "supernode.log"
    path.write_text(f"of an earlier SuperNode\n{ACTIVE}\n")
    return path


def told(log: Path, connection: ConnectionLog, *lines: str) -> list[str]:
    with log.open("a") as file:
        file.writelines(line + "\n" for line in lines)
    return [Text.from_markup(text).plain for text in connection.changes()]


@pytest.fixture
def connection(log: Path) -> ConnectionLog:
    return ConnectionLog(log, log.stat().st_size)


def test_a_text_for_each_change_of_state(log: Path, connection: ConnectionLog) -> None:
    assert told(log, connection, "INFO :      Starting Flower SuperNode") == []
    assert told(log, connection, failed("UNAVAILABLE", 0.2), FLOWERS) == [
        "server does not answer; trying again in 1 s"
    ]
    assert told(log, connection, *[failed("UNAVAILABLE", 4.2), FLOWERS] * 9) == []
    assert told(log, connection, AGAIN) == []  # registered, but not active yet
    assert not connection.connected
    assert told(log, connection, ACTIVE) == ["connected as node 17"]
    assert connection.connected
    assert told(log, connection, failed("INTERNAL", 2.1), FLOWERS, failed("INTERNAL", 3.0)) == [
        "server answers with an error (INTERNAL); trying again in 3 s"
    ]
    assert told(log, connection, failed("DEADLINE_EXCEEDED", 4.9)) == [
        "server does not answer; trying again in 5 s"
    ]
    assert told(log, connection, AGAIN, AGAIN) == ["connected again"]


def test_a_refusal_is_told_once_and_until_when_it_is_tried(
    log: Path, connection: ConnectionLog
) -> None:
    [text] = told(log, connection, *[failed(steady_connection.REFUSED, 3.0), FLOWERS] * 20)
    assert text.startswith("refused: the server refuses this node's key: it is not registered")
    assert text.endswith("; trying again until it is accepted")
    assert told(log, connection, AGAIN, ACTIVE) == ["connected as node 17"]


def test_without_lines_of_our_own_those_of_flower_do(log: Path, connection: ConnectionLog) -> None:
    assert told(log, connection, ACTIVE, FLOWERS, FLOWERS, AGAIN) == [
        "connected as node 17",
        "server does not answer; trying again in 3 s",
        "connected again",
    ]


def test_lines_are_read_when_they_are_complete(log: Path, connection: ConnectionLog) -> None:
    with log.open("a") as file:
        file.write(ACTIVE[:-1])
    assert connection.changes() == []
    assert told(log, connection, "7") == ["connected as node 17"]
    assert connection.lines == [ACTIVE]


def test_a_log_that_is_gone_tells_nothing(tmp_path: Path) -> None:
    assert ConnectionLog(tmp_path / "none.log", 0).changes() == []


def test_a_log_that_was_emptied_is_read_from_its_beginning(
    log: Path, connection: ConnectionLog
) -> None:
    assert told(log, connection, ACTIVE) == ["connected as node 17"]
    log.write_text("")
    assert told(log, connection, FLOWERS) == ["server does not answer; trying again in 3 s"]
    assert told(log, connection, AGAIN) == ["connected again"]


def test_a_refused_run_is_told_as_the_gate_says_it(log: Path, connection: ConnectionLog) -> None:
    """What the server has named is no markup."""
    line = app_gate.LINE % (app_gate.FOREIGN_APP, 7, "the server sent [red]x[/] is added")
    full = app_gate.LINE % (app_gate.STORAGE_FAILED, 8, "its app cannot be unpacked")
    assert told(log, connection, ACTIVE, line, AGAIN, full) == ["connected as node 17", line, full]
    assert connection.state == "connected"
