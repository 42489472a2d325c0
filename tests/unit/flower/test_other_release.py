"""A run of another release's server, in the keys of the installed one: data, never code."""

from typing import Any

import pytest
import tomli_w

from lumos_core.config import RunConfig
from lumos_core.config.older_runs import ADDED_LATER
from lumos_core.flower import app_archive, commands
from lumos_core.flower.other_release import Project, UntranslatableError, translated
from lumos_core.wire.versions import PROTOCOL


def project(release: str, defaults: dict[str, Any], as_before: dict[str, Any]) -> Project:
    return Project("lumos", ("lumos", {}), release, 1, defaults, as_before)


def table(**changes: Any) -> bytes:
    found: Any = commands.app_metadata({"rounds": 3})
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = found
        for parent in parents:
            place = place[parent]
        place[last] = value
    return tomli_w.dumps(found).encode()


def test_the_installed_app_says_what_it_is() -> None:
    found = Project.read(commands.app_files()[app_archive.PROJECT])
    assert found is not None
    assert (found.name, found.protocol) == ("lumos", PROTOCOL)
    assert found.defaults == RunConfig().to_flat()
    assert found.as_before == ADDED_LATER


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"project__version": "9.1"}, True),
        ({"project__version": "9.1.0rc1"}, True),
        ({}, False),  # the same release, whatever else differs
        ({"tool__lumos": {}}, False),
        ({"project__version": "9.1", "project__name": "other"}, False),
        ({"project__version": "9.1", "tool__flwr__app__publisher": "other"}, False),
    ],
)
def test_what_counts_as_another_release(changes: dict[str, Any], other: bool) -> None:
    installed = Project.read(table())
    found = Project.read(table(**changes))
    assert installed is not None
    assert found is not None
    assert found.is_other_release_of(installed) is other


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[tool]",
        table(project__version="latest"),
        table(project__version="1.0\n"),
        table(tool__flwr__app__config={"nested": {"rounds": 3}}),
        table(tool__lumos={"as-before": {"list": [1]}}),
        table(tool__lumos="text"),
    ],
)
def test_what_is_not_as_lumos_writes_it(content: bytes) -> None:
    assert Project.read(content) is None


class TestTranslation:
    OLD = project("0.1.0", {"rounds": 20, "seed": 0}, {})
    NEW = project("0.2.0", {"rounds": 30, "seed": 0, "later": "auto"}, {"later": "none"})

    def test_an_older_server(self) -> None:
        assert translated(self.OLD, {"seed": 4}, self.NEW) == {
            "rounds": 20, "seed": 4, "later": "none"
        }  # fmt: skip

    def test_a_newer_server_that_does_not_use_the_key(self) -> None:
        found = translated(self.NEW, {"later": "none"}, self.OLD)
        assert found == {"rounds": 30, "seed": 0}

    def test_a_newer_server_that_uses_it(self) -> None:
        with pytest.raises(UntranslatableError, match=r"later = auto, .* install LUMOS 0\.2\.0 he"):
            translated(self.NEW, {}, self.OLD)

    def test_a_key_that_nobody_explains(self) -> None:
        with pytest.raises(UntranslatableError, match=r"sets evil\\x1b = 1, which"):
            translated(self.OLD, {"evil\x1b": 1}, self.NEW)
        bare = project("0.2.0", {"rounds": 30, "seed": 0, "later": "auto"}, {})
        with pytest.raises(UntranslatableError, match="does not set later, which LUMOS"):
            translated(self.OLD, {}, bare)

    def test_a_newer_server_may_have_given_up_a_key(self) -> None:
        newer = project("0.3.0", {"rounds": 20}, {"seed": 1})
        assert translated(newer, {}, self.OLD) == {"rounds": 20, "seed": 1}
