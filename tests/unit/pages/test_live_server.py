import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from lumos_core.errors import ConfigError, DataError
from lumos_core.pages import live_server
from lumos_core.pages.live_server import is_loopback, serving_live
from lumos_core.pages.page import Page, Paragraph, Section, Snapshot


class Shown:
    """What is shown; tests change it."""

    def __init__(self) -> None:
        self.text, self.error, self.looks = "first", "", 0
        self.slow = 0.0

    def __call__(self) -> Snapshot:
        self.looks += 1
        time.sleep(self.slow)
        if self.error:
            raise DataError(self.error)
        sections = [Section("now", "Now", [Paragraph(self.text)]), Section("same", "Same", [])]
        return Snapshot(Page("t", "k", "l", sections=sections), f"heard {self.text}")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    monkeypatch.setattr(live_server, "LOOK_SECONDS", 0.02)
    return Shown()


@pytest.fixture
def address(shown: Shown) -> Iterator[str]:
    with serving_live(shown, "run") as found:
        yield found


def get(address: str, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
    connection.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    return connection.getresponse()


def events(response: http.client.HTTPResponse) -> Iterator[dict[str, str] | str]:
    """The data of each event."""
    while line := response.readline():
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def test_the_page_has_its_policy_and_is_not_stored(address: str) -> None:
    response = get(address)
    assert response.status == 200
    assert b"first" in response.read()
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_events_bring_everything_first_and_then_what_has_changed(
    address: str, shown: Shown
) -> None:
    response = get(address, "/events")
    assert response.headers["Content-Type"] == "text/event-stream"
    found = events(response)
    first = next(found)
    assert set(first) == {"part-top", "part-figures", "part-now", "part-same", "announcement"}
    shown.text = "<b>second</b>"
    second = next(found)
    assert set(second) == {"part-now", "announcement"}
    assert "&lt;b&gt;second" in second["part-now"]


def test_what_cannot_be_shown_is_told_and_comes_back(address: str, shown: Shown) -> None:
    found = events(get(address, "/events"))
    next(found)
    shown.error = "the history is damaged"
    assert next(found) == "the history is damaged"
    response = get(address)
    assert response.status == 503
    assert response.read() == b"The run cannot be shown: the history is damaged\n"
    shown.error = ""
    assert "part-now" in next(event for event in found if isinstance(event, dict))


def test_many_windows_cost_one_look(
    address: str, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_server, "LOOK_SECONDS", 60.0)
    for _ in range(5):
        next(events(get(address, "/events")))
    assert shown.looks == 1


def test_where_looking_takes_long_it_is_done_rarely(address: str, shown: Shown) -> None:
    shown.slow = 0.2
    found = events(get(address, "/events"))
    next(found)
    begin, before = time.monotonic(), shown.looks
    shown.text = "second"
    next(found)
    assert time.monotonic() - begin >= 0.8
    assert shown.looks == before + 1


def test_another_name_for_this_machine_is_refused(address: str) -> None:
    port = urlsplit(address).port
    assert get(address, Host=f"evil.example:{port}").status == 403
    assert get(address, Host=f"localhost:{port}").status == 200


@pytest.mark.parametrize("path", ["/../etc/passwd", "/page.css", "/events/"])
def test_there_is_nothing_else(address: str, path: str) -> None:
    assert get(address, path).status == 404


def test_other_methods_are_refused(address: str) -> None:
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
    connection.request("POST", "/", body="x")
    assert connection.getresponse().status == 501


def test_windows_are_bounded(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_server, "MOST_STREAMS", 2)
    with serving_live(shown, "run") as address:
        kept = [get(address, "/events") for _ in range(2)]
        assert all(response.status == 200 for response in kept)
        assert get(address, "/events").status == 503
        assert get(address).status == 200


def test_connections_are_bounded_and_free_again(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_server, "MOST_CONNECTIONS", 3)
    with serving_live(shown, "run") as address:
        url = urlsplit(address)
        where = url.hostname or "", url.port or 0
        idle = [socket.create_connection(where) for _ in range(3)]
        wait_until(lambda: get(address).status == 503)
        for connection in idle:
            connection.close()
        wait_until(lambda: get(address).status == 200)


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(200):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it never held")


# ---------------------------------------------------------------- tokens
@pytest.fixture
def open_address(shown: Shown) -> Iterator[str]:
    with serving_live(shown, "run", "0.0.0.0") as found:
        yield found.replace("0.0.0.0", "127.0.0.1")


def test_beyond_loopback_nothing_is_shown_without_the_token(open_address: str) -> None:
    for path in ("/", "/events", "/?token=wrong", "/?token="):
        response = get(open_address, path)
        assert response.status == 401
        assert b"first" not in response.read()
    assert get(open_address, Cookie="lumos-1=x; =;").status == 401


def test_the_token_becomes_a_cookie_and_leaves_the_address(open_address: str) -> None:
    url = urlsplit(open_address)
    response = get(open_address, f"/?{url.query}")
    assert (response.status, response.headers["Location"]) == (303, "/")
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    pair = cookie.split(";")[0]
    assert get(open_address, Cookie=pair).status == 200
    assert isinstance(next(events(get(open_address, "/events", Cookie=pair))), dict)


def test_every_start_has_a_token_of_its_own(shown: Shown) -> None:
    found = set()
    for _ in range(2):
        with serving_live(shown, "run", "0.0.0.0") as address:
            found.add(urlsplit(address).query)
    assert len(found) == 2
    assert all(len(query) > 30 for query in found)


def test_loopback_needs_none(address: str) -> None:
    assert "token" not in address


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_what_loopback_is(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


def test_a_port_that_is_taken_is_named(address: str, shown: Shown) -> None:
    port = urlsplit(address).port
    with (
        pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*--port"),
        serving_live(shown, "run", port=port or 0),
    ):
        pass


def test_it_ends_with_open_windows(shown: Shown) -> None:
    before = threading.active_count()
    with serving_live(shown, "run") as address:
        next(events(get(address, "/events")))
    wait_until(lambda: threading.active_count() <= before)
