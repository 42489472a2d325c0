"""Parts from other packages: found by entry points, told apart, and never looked for in vain."""

from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from lumos_core import plugins
from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError


def offering(monkeypatch: pytest.MonkeyPatch, **parts: str) -> None:
    """Packages that offer these codecs."""
    found = EntryPoints(EntryPoint(name, value, "lumos.codecs") for name, value in parts.items())

    def entry_points(**chosen: Any) -> EntryPoints:
        return found.select(**chosen)

    monkeypatch.setattr(plugins, "entry_points", entry_points)


def test_nobody_looks_for_plugins_in_a_run_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search reads the metadata of all packages; a node would pay for it with every message."""

    def entry_points(**chosen: Any) -> EntryPoints:
        raise AssertionError(f"searched for {chosen}")

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    for aggregation in ("auto", "mean", "multi-krum"):
        RunConfig.from_flat({"aggregation": aggregation, "delta-codec": "int8", "views": "tfidf"})


def test_a_name_that_a_package_offers_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    offering(monkeypatch, half="math:pi")
    assert RunConfig.from_flat({"delta-codec": "half"}).delta_codec == "half"
    assert plugins.load("codec", "half") == pytest.approx(3.14159, rel=1e-5)
    with pytest.raises(ConfigError, match=r"found 'third', but .*'top-rows-int8' or 'half'"):
        RunConfig.from_flat({"delta-codec": "third"})
    with pytest.raises(ConfigError, match=r"key 'aggregation': found 'half'"):
        RunConfig.from_flat({"aggregation": "half"})


def test_what_nobody_offers_is_missing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    offering(monkeypatch, half="math:pi")
    with pytest.raises(ConfigError, match=r"codec 'third': .*'lumos.codecs': half\); install"):
        plugins.load("codec", "third")


def test_what_cannot_be_imported_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    offering(monkeypatch, broken="math:tau_is_not_enough")
    with pytest.raises(
        ConfigError, match=r"codec 'broken': 'math:tau_is_not_enough' of .*Attribute"
    ):
        plugins.load("codec", "broken")


def test_two_packages_with_the_same_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = EntryPoints(EntryPoint("half", value, "lumos.codecs") for value in ("a:b", "c:d"))
    monkeypatch.setattr(plugins, "entry_points", lambda **chosen: found.select(**chosen))
    with pytest.raises(ConfigError, match=r"'a:b' of .* and 'c:d' of .*uninstall all but one"):
        plugins.load("codec", "half")
