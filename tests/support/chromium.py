"""Chromium for tests and for the pictures in the documents: the system's own, driven by Playwright,
which downloads nothing."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (360, 1440)
SCHEMES = ("light", "dark")
_HEIGHT = {360: 740, 1440: 900}


def missing() -> str:
    """Why there is no browser; empty if there is one."""
    try:
        import axe_playwright_python  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed: pip install 'lumos[dev]'"
    return "" if _program() else "no Chromium: apt-get install chromium"


def _program() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses otherwise
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_program(), args=as_root)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, url: str, width: int = 1440, scheme: str = "light") -> Iterator[Any]:
    """A page in a window of its own; errors that it logs are in ``page.complaints``."""
    size = {"width": width, "height": _HEIGHT.get(width, 900)}
    context = browser.new_context(
        viewport=size, color_scheme=scheme, reduced_motion="reduce", is_mobile=width < 600
    )
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on(
        "request",
        lambda r: (
            page.complaints.append(f"request of {r.url}")
            if not r.url.startswith(url.split("?")[0].rstrip("/"))
            else None
        ),
    )
    page.goto(url)
    yield page
    context.close()


def fastest_opening(browser: Any, url: str, width: int, tries: int = 5) -> float:
    """Seconds until a page is there and painted: the least of some tries, each in a window of its
    own, as other work on the machine only ever adds to it."""
    found = []
    for _ in range(tries):
        with opened(browser, "about:blank", width) as page:
            begin = time.monotonic()
            page.goto(url)
            page.locator("footer").wait_for()
            page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
            found.append(time.monotonic() - begin)
        if found[-1] < 1.0:
            break
    return min(found)


def check_opens_within(seconds: float, browser: Any, url: str, width: int) -> None:
    """Check how fast a page opens. Where other work has the whole machine, a page that is too slow
    says nothing about itself: the test is skipped, with the load as its reason."""
    found = fastest_opening(browser, url, width)
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if found >= seconds and load > 2 * cores:
        pytest.skip(f"{found:.1f} s at a load of {load:.1f} on {cores} cores")
    assert found < seconds


def violations(page: Any) -> list[str]:
    """What axe finds, each as a line."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['help']}: {[n['html'][:100] for n in v['nodes'][:3]]}" for v in found]
