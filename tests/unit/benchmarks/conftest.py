"""Benchmarks are scripts: tests import them from their folder."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """``benchmark_module("growth")``: benchmarks/growth.py."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module
