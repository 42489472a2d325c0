"""Chromium for tests and for the pictures in the documents: the system's own, driven by Playwright,
which downloads nothing."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


def violations(page: Any) -> list[str]:
    """What axe finds, each as a line."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['help']}: {[n['html'][:100] for n in v['nodes'][:3]]}" for v in found]
