"""When a process that runs counts as hung, and what is done then."""

import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lumos_core.deployment.hung_processes import Probe, SignOfLife, end_hung, link_answers
from lumos_core.flower import commands, sign_of_life
from lumos_core.processes.children import Children


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_program_without_a_change_for_too_long_is_hung(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "alive"
    path.write_text("of the one before")
    signs = SignOfLife(path, 60.0, clock)
    clock.now += 500
    assert not signs.hung()  # it may not have begun yet
    path.write_text("1")
    assert not signs.hung()
    clock.now += 59
    assert not signs.hung()
    path.write_text("2")
    assert not signs.hung()
    clock.now += 61
    assert signs.hung()


def test_one_that_never_showed_a_sign_is_not_judged(tmp_path: Path) -> None:
    clock = Clock()
    signs = SignOfLife(tmp_path / "none", 60.0, clock)
    clock.now += 5000
    assert not signs.hung()


def test_a_program_shows_signs_at_most_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "alive"
    for name, value in SignOfLife(path).variables.items():
        monkeypatch.setenv(name, value)
    now = [1000.0]
    monkeypatch.setattr(sign_of_life.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sign_of_life, "_last", [0.0])
    found = []
    for _ in range(5):
        sign_of_life.beat()
        found.append(path.read_text())
        now[0] += 0.5
    assert found == ["1000.0", "1000.0", "1001.0", "1001.0", "1002.0"]


def test_a_sign_that_cannot_be_written_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_of_life, "_last", [0.0])
    monkeypatch.setenv(sign_of_life.SWITCH, str(tmp_path / "no folder" / "alive"))
    sign_of_life.beat()
    monkeypatch.delenv(sign_of_life.SWITCH)
    sign_of_life.beat()


def test_a_probe_counts_the_seconds_without_an_answer() -> None:
    clock, answer, asked = Clock(), [True], threading.Event()

    def ask() -> bool:
        asked.set()
        return answer[0]

    def next_question() -> None:
        asked.clear()
        assert asked.wait(10)
        asked.clear()
        assert asked.wait(10)

    with Probe(ask, 30.0, clock, every=0.001) as probe:
        clock.now += 100
        next_question()
        assert not probe.hung()
        answer[0] = False
        next_question()
        clock.now += 29
        assert not probe.hung()
        clock.now += 2
        assert probe.hung()
        answer[0] = True
        next_question()
        assert not probe.hung()


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_superlink_that_is_stopped_does_not_answer(tmp_path: Path) -> None:
    code = (
        "import http.server, sys\n"
        "class Healthy(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n"
        "        self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Healthy).serve_forever()\n"
    )
    [port] = commands.free_ports(1)
    answers = link_answers(port)
    assert not answers(timeout=1)  # nobody is there
    with Children(tmp_path / "logs") as children:
        link = children.start(
            "superlink", [sys.executable, "-c", code, str(port)], environment={}, cwd=tmp_path
        )
        until = time.monotonic() + 30
        while not answers(timeout=1):
            assert time.monotonic() < until
        link.process.send_signal(signal.SIGSTOP)
        assert not answers(timeout=0.5)
        text = end_hung(link, "the SuperLink", 30.0)
        assert text == "the SuperLink runs, but has shown no sign of life for 30 s; it was ended"
        assert link.exit_code == -signal.SIGKILL


def test_only_the_health_of_a_superlink_is_an_answer() -> None:
    server = HTTPServer(("127.0.0.1", 0), Healthy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        assert link_answers(server.server_port)()
    finally:
        server.shutdown()
        server.server_close()
