"""Shorter waits inside Flower: only in the version they are for, and only if wanted."""

import importlib
import time
from types import ModuleType

import pytest

from lumos_core.flower import fast_polling


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Flower's module of waits; whatever is changed there is put back."""
    module = importlib.import_module(fast_polling._OBJECTS)
    for name in fast_polling._PULLS:
        function = getattr(module, name)
        values = dict(function.__kwdefaults__)
        if fast_polling._BETTER.items() <= values.items():  # another test has loaded a program
            values |= fast_polling._FOUND
        monkeypatch.setattr(function, "__kwdefaults__", values)
    return module


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Flower's module of SuperNodes."""
    module = importlib.import_module(fast_polling._NODE)
    monkeypatch.setattr(module, "time", time)
    return module


def test_flowers_own_wait_leaves_flower_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fast_polling.SWITCH, "3")
    assert not fast_polling.wanted()
    monkeypatch.delenv(fast_polling.SWITCH)
    assert fast_polling.wanted()


@pytest.mark.parametrize("text", ["soon", "0", "-1", "3.5", "nan", "inf"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(
        SystemExit, match=r"LUMOS_POLL_SECONDS = .*expected seconds from 0\.05 to 3"
    ):
        fast_polling.poll_seconds({fast_polling.SWITCH: text})


def test_waits_of_the_installed_flower_become_shorter(
    objects: ModuleType, node: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fast_polling.SWITCH, "0.5")
    assert fast_polling.shorten_pulls()
    assert fast_polling.shorten_node_polls()
    for name in fast_polling._PULLS:
        assert getattr(objects, name).__kwdefaults__["backoff_cap"] == 0.5
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    node.time.sleep(3)
    node.time.sleep(0.1)
    assert waits == [0.5, 0.1]
    assert node.time.monotonic is time.monotonic


def test_another_version_is_left_alone(
    objects: ModuleType, node: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_polling, "version", lambda name: "1.40.0")
    assert not fast_polling.shorten_pulls()
    assert not fast_polling.shorten_node_polls()
    assert objects.pull_objects.__kwdefaults__["backoff_cap"] == 10
    assert node.time is time


def test_code_that_looks_different_is_left_alone(objects: ModuleType, node: ModuleType) -> None:
    objects.pull_objects.__kwdefaults__["backoff_cap"] = 7
    assert not fast_polling.shorten_pulls()
    last = fast_polling._PULLS[1]
    assert getattr(objects, last).__kwdefaults__["initial_backoff"] == 1
    node.__dict__["time"] = object()
    assert not fast_polling.shorten_node_polls()
