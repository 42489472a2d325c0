"""Pages in a real browser. Without Chromium or Playwright these tests are skipped, and say why."""

from collections.abc import Iterator
from typing import Any

import chromium as chromium_support
import pytest


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if reason := chromium_support.missing():
        pytest.skip(reason)
    with chromium_support.chromium() as found:
        yield found
