"""The page of a node's owner in Chromium, from ``lumos node page`` as a process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import SCHEMES, WIDTHS, opened, violations
from serving_support import CATALOG, keep, node_page, write_node

from lumos_core.data import Catalog
from lumos_core.federation.owner_pause import PAUSED
from lumos_core.privacy.ledger_file import write_line

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
USERS = {"Ann&Søn": [1, 2, 3, 4], "b": [9, 8, 7], "c": [5, 6, 7, 8]}
PRIVACY = {"dp": "user", "noise": 2.0, "public_noise": False, "secure_aggregation": True}


@pytest.fixture
def node(tmp_path: Path) -> Path:
    folder = write_node(tmp_path / "node-0", USERS)
    catalog = Catalog(CATALOG.item_ids, (*CATALOG.titles[:-1], HOSTILE))
    catalog.write(folder / "catalog.tsv")
    keep(folder, seed=1, catalog=catalog)
    for number in (1, 2):
        write_line(
            folder / "state",
            {"run": "1", "run_key": "abc", "round": number, "message": "train",
             "records": [{"record": "delta", "bytes": 52_000}], "privacy": PRIVACY},
        )  # fmt: skip
    return folder


@pytest.fixture
def address(node: Path) -> Iterator[str]:
    with node_page(node) as found:
        yield found


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_readable_for_everybody(browser: Any, address: str, width: int, scheme: str) -> None:
    with opened(browser, address, width, scheme) as page:
        assert page.get_by_role("heading", level=1).inner_text() == "Node node-0"
        assert page.get_by_text("1 run got 2 model deltas from this machine").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []
        page.get_by_label("The user's id").fill("b")
        page.get_by_role("button", name="Show what would be removed").click()
        assert page.get_by_role("heading", level=1).inner_text() == "Forget this user?"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []
        assert page.title() != "owned"
        assert page.complaints == []


def test_pause_and_resume_with_the_keyboard_alone(browser: Any, node: Path, address: str) -> None:
    with opened(browser, address) as page:
        for name in ("Pause this node", "Resume"):
            button = page.get_by_role("button", name=name)
            for _ in range(40):
                page.keyboard.press("Tab")
                if button.evaluate("e => e === document.activeElement"):
                    break
            page.keyboard.press("Enter")
            done = {"Pause this node": "This node is paused.", "Resume": "takes part again"}[name]
            page.get_by_text(done).first.wait_for()
            assert (node / "state" / PAUSED).exists() == (name == "Pause this node")
        assert page.complaints == []


def test_a_user_is_forgotten_after_a_look(browser: Any, node: Path, address: str) -> None:
    rows = node / "interactions.tsv"
    with opened(browser, address) as page:
        page.get_by_label("The user's id").fill("Ann&Søn")
        page.keyboard.press("Enter")
        page.get_by_text("This cannot be undone on this machine.").wait_for()
        assert "Ann" in rows.read_text()
        page.get_by_role("button", name="Forget this user for good").click()
        page.get_by_text("The user is forgotten; this node has").wait_for()
        assert "Ann" not in rows.read_text()
        assert "Ann" not in page.url
        assert page.get_by_text("1 user with 4 interactions").is_visible()
        page.get_by_label("The user's id").fill("nobody")
        page.keyboard.press("Enter")
        page.get_by_text("Nothing was changed.").wait_for()
        page.complaints.clear()  # 409 is an error for the console


def test_it_works_without_scripts(browser: Any, node: Path, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    page.get_by_role("button", name="Pause this node").click()
    page.get_by_text("This node is paused.").first.wait_for()
    assert (node / "state" / PAUSED).exists()
    context.close()
