"""``report.html`` in Chromium: on a phone and on a desk, dark and light, by keyboard, checked by
axe, with hostile names, and of a long run with many nodes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chromium import SCHEMES, WIDTHS, check_opens_within, opened, violations
from page_histories import METRICS, history, summary

from lumos_core.config import RunConfig
from lumos_core.runs.report import CENTRALISED, Row
from lumos_core.runs.report_page import Example, write_page
from lumos_core.runs.saved_config import CONFIG, SavedConfig

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
ROWS = [Row("federated lumos", METRICS), Row(CENTRALISED, {**METRICS, "hr@20": 0.25})]
LATE = "no reply before the deadline"
BOTH = [
    pytest.param(width, scheme, id=f"{width}-{scheme}") for width in WIDTHS for scheme in SCHEMES
]


def report(folder: Path, rounds: int, nodes: list[str], failing: dict[str, str]) -> str:
    """The address of a page."""
    lines = (json.dumps(e) + "\n" for e in history(rounds, nodes, failing))
    (folder / "history.jsonl").write_text("".join(lines))
    SavedConfig(run=dict(RunConfig(rounds=rounds).to_flat()), nodes={}).write(folder / CONFIG)
    examples = [Example("12348", [("history", HOSTILE), ("future", "a pen")])]
    path = write_page(folder, summary(rounds=rounds, epsilon=2.5), ROWS, examples)
    return path.resolve().as_uri()


@pytest.fixture
def small(tmp_path: Path) -> str:
    return report(tmp_path, 12, ["node-0", "node-1", HOSTILE], {"node-1": LATE, HOSTILE: HOSTILE})


@pytest.mark.parametrize(("width", "scheme"), BOTH)
def test_it_fits_is_accessible_and_fetches_nothing(
    browser: Any, small: str, width: int, scheme: str
) -> None:
    with opened(browser, small, width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, re.findall(r"\d+", ground)[:3])) > 3 * 128
        assert light == (scheme == "light")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert violations(page) == []
        assert page.complaints == []


def test_hostile_names_are_text(browser: Any, small: str) -> None:
    with opened(browser, small) as page:
        assert page.title() == "lumos, seed 3"
        assert page.locator("img, script").count() == 0
        assert page.get_by_text(HOSTILE, exact=False).count() >= 3


def test_a_script_in_the_page_would_not_run(browser: Any, small: str, tmp_path: Path) -> None:
    """The policy holds even if something did get into the page as a tag."""
    path = tmp_path / "report.html"
    text = path.read_text("utf-8")
    path.write_text(text.replace("<main", f"{HOSTILE}<main", 1))
    with opened(browser, small) as page:
        assert page.locator("script").count() == 1
        assert page.title() == "lumos, seed 3"
        assert any("Content Security Policy" in text for text in page.complaints)


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_can_be_reached_by_keyboard(browser: Any, small: str, width: int) -> None:
    with opened(browser, small, width) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
            if page.evaluate("document.activeElement.matches('summary')"):
                page.keyboard.press("Enter")
            if page.evaluate("document.activeElement === document.body"):
                break
        summaries = page.locator("details")
        assert summaries.count() >= 2
        assert page.locator("details[open]").count() == summaries.count()
        assert len(reached) > 10


def test_a_page_of_1000_rounds_and_200_nodes_opens_within_two_seconds(
    browser: Any, tmp_path: Path
) -> None:
    nodes = [f"node-{n}" for n in range(200)]
    failing = {name: f"{LATE} {name}" for name in nodes[::4]}
    url = report(tmp_path, 1000, nodes, failing)
    check_opens_within(2.0, browser, url, 360)
    with opened(browser, url, 360) as page:
        assert page.locator("details").count() >= 3
        assert page.get_by_text("And 30 more; history.jsonl has them all.").count() == 1
    assert (tmp_path / "report.html").stat().st_size < 500_000
