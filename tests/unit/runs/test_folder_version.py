"""Folders of state are migrated step by step, and those of a newer LUMOS are refused."""

import json
from pathlib import Path

import pytest

from lumos_core import __version__
from lumos_core.config import RunConfig
from lumos_core.errors import DataError, NewerFileError
from lumos_core.runs import folder_version
from lumos_core.runs.folder import read_config, write_config
from lumos_core.runs.folder_version import FILE, check_folder, newest, open_folder
from lumos_core.runs.status import status_of


def stated(folder: Path, **changes: object) -> None:
    content = {"kind": "run", "version": 1, "lumos": "0.2.0", **changes}
    (folder / FILE).write_text(json.dumps(content))


def steps(monkeypatch: pytest.MonkeyPatch, count: int, fails: int = -1) -> list[int]:
    """Let there be steps for runs; returns the list to which they add their numbers."""
    done: list[int] = []

    def step(number: int) -> None:
        if number == fails:
            raise OSError("disk full")
        done.append(number)

    made = tuple(lambda folder, n=n: step(n) for n in range(1, count + 1))
    monkeypatch.setattr(folder_version, "MIGRATIONS", {"run": made})
    return done


def test_a_folder_gets_its_version(tmp_path: Path) -> None:
    assert check_folder(tmp_path / "none", "run") == 1
    open_folder(tmp_path, "run")
    written = json.loads((tmp_path / FILE).read_text())
    assert written["version"] == newest("run")
    assert written["lumos"] == __version__
    open_folder(tmp_path, "run")
    assert json.loads((tmp_path / FILE).read_text()) == written


def test_an_older_folder_is_migrated_by_the_steps_that_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = steps(monkeypatch, 3)
    stated(tmp_path, version=2)
    open_folder(tmp_path, "run")
    assert done == [2, 3]
    assert check_folder(tmp_path, "run") == 4
    open_folder(tmp_path, "run")
    assert done == [2, 3]


def test_a_folder_of_the_release_before_begins_at_version_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = steps(monkeypatch, 2)
    open_folder(tmp_path, "run")
    assert done == [1, 2]


def test_an_interrupted_migration_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps(monkeypatch, 3, fails=2)
    with pytest.raises(OSError, match="disk full"):
        open_folder(tmp_path, "run")
    assert check_folder(tmp_path, "run") == 2
    done = steps(monkeypatch, 3)
    open_folder(tmp_path, "run")
    assert done == [2, 3]


def test_a_newer_folder_is_refused_with_what_to_install(tmp_path: Path) -> None:
    stated(tmp_path, version=newest("run") + 1, lumos="0.9.0")
    before = (tmp_path / FILE).read_bytes()
    for use in (check_folder, open_folder):
        with pytest.raises(NewerFileError, match=r"LUMOS 0\.9\.0; this .*pip install lumos==0\.9"):
            use(tmp_path, "run")
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ('{"kind": "run", "lumos": "0.2.0"}', "'version' is missing"),
        ('{"kind": "node state", "version": 1, "lumos": "0.2.0"}', "expected 'run'"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(DataError, match=told) as error:
        open_folder(tmp_path, "run")
    assert str(tmp_path / FILE) in str(error.value)


def test_a_run_is_marked_and_that_of_a_newer_lumos_is_neither_resumed_nor_shown(
    tmp_path: Path,
) -> None:
    write_config(tmp_path, RunConfig(), {})
    assert check_folder(tmp_path, "run") == newest("run")
    assert (tmp_path / FILE).exists()
    stated(tmp_path, version=newest("run") + 1)
    for use in (read_config, status_of, lambda folder: write_config(folder, RunConfig(), {})):
        with pytest.raises(NewerFileError):
            use(tmp_path)
