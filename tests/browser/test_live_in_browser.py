"""The page of ``lumos status --web`` in Chromium: it follows a run while it runs."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chromium import SCHEMES, WIDTHS, check_opens_within, opened, violations
from page_histories import history

from lumos_core.cli.web import watching
from lumos_core.runs.attendance import ATTENDANCE, Attendance
from lumos_core.runs.history import HISTORY
from lumos_core.runs.lock import only_server
from lumos_core.runs.saved_config import CONFIG, SavedConfig
from lumos_core.runs.series_file import SERIES, Night, SeriesFile

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
CATALOG = "its catalog is 'aaaaaaaa'…, the run's is 'bbbbbbbb'…"
NAMES = ["node-0", "node-1", "node-2", HOSTILE]


def write(folder: Path, rounds: int, names: list[str] = NAMES) -> None:
    text = "".join(json.dumps(event) + "\n" for event in history(rounds, names))
    (folder / HISTORY).write_text(text)


def attend(folder: Path, silent: float, left: float, *waiting: str, **refused: str) -> None:
    now = datetime.now(UTC)
    Attendance(
        round=5, asked=(now - timedelta(seconds=silent)).isoformat(),
        closes=(now + timedelta(seconds=left)).isoformat(), waiting=list(waiting),
        answered={"node-0": 4.0}, refused={k.replace("_", "-"): v for k, v in refused.items()},
    ).write(folder / ATTENDANCE)  # fmt: skip


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    SavedConfig(run={"method": "lumos", "rounds": 20}, nodes={}).write(tmp_path / CONFIG)
    write(tmp_path, 4)
    attend(tmp_path, 40, 20, "node-2", node_3=CATALOG)
    with only_server(tmp_path):
        yield tmp_path


@pytest.fixture
def address(running: Path) -> Iterator[str]:
    with watching(running, "127.0.0.1", 0) as found:
        yield found


def test_the_late_and_the_refused_node_are_named(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        late = page.get_by_text("node-2 has been silent for").inner_text()
        found = re.fullmatch(
            r"node-2 has been silent for (\d+) s; the round closes in (\d+) s\.", late
        )
        assert found
        silent, left = map(int, found.groups())
        assert 40 <= silent <= 50
        assert silent + left in (59, 60, 61)
        refused = page.locator("li", has_text="node-3 was refused")
        assert refused.locator(".what").inner_text() == f"node-3 was refused: {CATALOG}"
        assert "lumos prepare LOG --items catalog.tsv" in refused.locator(".advice").inner_text()


def test_it_follows_the_run_without_being_loaded_again(
    browser: Any, address: str, running: Path
) -> None:
    with opened(browser, address) as page:
        page.get_by_text("Live", exact=True).wait_for()
        page.evaluate("window.same = true")
        assert page.get_by_role("heading", level=1).inner_text() == "lumos, round 4 of 20"
        write(running, 6)
        attend(running, 1, 59)
        page.get_by_role("heading", name="lumos, round 6 of 20").wait_for(timeout=10_000)
        page.get_by_text("All is well").wait_for(timeout=10_000)
        assert page.get_by_text("has been silent").count() == 0
        assert page.evaluate("window.same")
        assert page.complaints == []


def test_what_a_reader_has_opened_and_focused_stays(
    browser: Any, address: str, running: Path
) -> None:
    with opened(browser, address) as page:
        page.get_by_text("Live", exact=True).wait_for()
        summary = page.get_by_text("Rounds in numbers")
        summary.focus()
        page.keyboard.press("Enter")
        write(running, 7)
        page.get_by_role("heading", name="lumos, round 7 of 20").wait_for(timeout=10_000)
        page.locator("#curves details[open]").wait_for()
        assert page.evaluate("document.activeElement.textContent") == "Rounds in numbers"
        assert page.locator("#curves details tbody tr").count() == 7


def test_it_says_when_the_server_is_gone(browser: Any, running: Path) -> None:
    serving = watching(running, "127.0.0.1", 0)
    with opened(browser, serving.__enter__()) as page:
        page.get_by_text("Live", exact=True).wait_for()
        serving.__exit__(None, None, None)
        page.get_by_text("The connection is lost").wait_for(timeout=10_000)
        assert page.get_by_text("node-2 has been silent for").count() == 1  # what was last known


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_is_accessible_and_asks_only_its_server(
    browser: Any, address: str, width: int, scheme: str
) -> None:
    with opened(browser, address, width, scheme) as page:
        page.get_by_text("Live", exact=True).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert violations(page) == []
        assert page.title().startswith("LUMOS: ")  # and not what a hostile name wanted
        assert page.locator("img").count() == 0
        assert page.complaints == []


def test_a_reader_with_the_token_sees_it_and_the_address_loses_it(
    browser: Any, running: Path
) -> None:
    with watching(running, "0.0.0.0", 0) as address:
        here = address.replace("0.0.0.0", "127.0.0.1")
        with opened(browser, here) as page:
            page.get_by_text("Live", exact=True).wait_for()
            assert "token" not in page.url
        with opened(browser, here.split("?")[0]) as page:  # a window without the cookie
            assert "it holds a token" in page.locator("body").inner_text()
            assert page.get_by_text("node-2").count() == 0


def test_a_running_page_of_1000_rounds_and_200_nodes_opens_within_two_seconds(
    browser: Any, address: str, running: Path
) -> None:
    names = [f"node-{n}" for n in range(200)]
    write(running, 1000, names)
    attend(running, 40, 20, *names[1:])
    check_opens_within(2.0, browser, address, 360)
    with opened(browser, address, 360) as page:
        page.get_by_text("179 more nodes are silent as well.").wait_for()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_series_fits_and_is_accessible(
    browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    nights = tuple(
        Night(
            name=f"night-{n}", begun=f"2026-03-{n:02}T02:00:00+00:00", rounds=20,
            outcome="failed" if n % 7 == 0 else "completed", before=0.1 + n / 1000,
            after=0.101 + n / 1000, promoted=n % 7 != 0, reason=HOSTILE if n % 7 == 0 else "",
        )
        for n in range(1, 29)
    )  # fmt: skip
    SeriesFile(timetable="every day at 02:00", nights=nights, number=28, model="night-27").write(
        tmp_path / SERIES
    )
    with (
        watching(tmp_path, "127.0.0.1", 0) as address,
        opened(browser, address, width, scheme) as page,
    ):
        page.get_by_text("Live", exact=True).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.locator("#nights tbody tr").count() == 28
        assert page.get_by_text("night-28 failed:").count() == 1
        assert violations(page) == []
        assert page.complaints == []
