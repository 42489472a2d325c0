"""The results of finished runs, in one file of their folder: ``results.jsonl``.

The first line holds what the runs have in common. Every other line is a run, and holds only what
differs::

    {"schema": 1, "data": …, "catalog": …, "versions": {…}, …, "config": {…}}
    {"variant": "lumos", "seed": 0, "overrides": {"rounds": 20}, "test": {…}, "curve": […], …}

A run has the values of the first line, except for the keys in its own line; null there means that
the run does not have the key. The configuration of a run is ``config`` with its ``seed`` and its
``overrides``.

A finished run is appended by one process at a time, and is on disk before the next one is appended.
A process that is killed loses at most the line that it is writing: readers ignore a line without a
line end, and the next writer cuts it off.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mode
from typing import Any

from lumos_core.config import RunConfig
from lumos_core.errors import DataError
from lumos_core.safe_files import exclusive, write_atomically

RESULTS = "results.jsonl"
"""The file's name."""
SCHEMA = 1
Result = dict[str, Any]
"""A finished run: its measurements, and its whole configuration (key ``config``)."""

_COMMON = (
    "data", "nodes", "users", "catalog", "interactions", "partition", "rounds", "versions",
    "target_uses", "target_counts", "history_lengths", "owners",
)  # fmt: skip


class ResultsFile:
    """The results of a folder.

    Args:
        folder: a suite's folder; need not exist yet.
        config: the configuration that its runs have in common, apart from the seed; it is written
            into a new file.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.path = folder / RESULTS
        self._config = {k: v for k, v in config.without_paths().items() if k != "seed"}

    def read(self) -> dict[str, Result]:
        """All finished runs, by the place where each was found ("line 2 of results.jsonl").

        If there is no file yet: the results in the files of earlier versions (:func:`old_results`).

        Raises:
            DataError: a line is damaged, or the file is of a later version.
        """
        lines = self._content().decode(errors="replace").split("\n")[:-1]
        if not lines:
            return old_results(self.path.parent)
        common = self._common(lines[0])
        return {
            f"line {number} of {RESULTS}": _whole(common, self._parsed(number, line))
            for number, line in enumerate(lines[1:], start=2)
        }

    def append(self, result: Result) -> None:
        """Add a finished run; it is on disk when this returns.

        Raises:
            DataError: the first line is damaged, or of a later version.
        """
        self.convert_old()
        with exclusive(self.path):
            content = self._content()
            if not content:
                self._write([result])
                return
            common = self._common(content.partition(b"\n")[0].decode(errors="replace"))
            with self.path.open("r+b") as file:
                file.truncate(len(content))  # cut off a line that a killed process has begun
                file.seek(len(content))
                file.write(_line(_own(common, result)))
                file.flush()
                os.fsync(file.fileno())

    def change(self, by: Callable[[Result], Result]) -> None:
        """Replace every finished run by what a function makes of it; if that is the same for all,
        the file stays as it is.

        Raises:
            DataError: a line is damaged, or the file is of a later version.
        """
        if not self._content():
            return
        with exclusive(self.path):
            before = list(self.read().values())
            after = [by(result) for result in before]
            if after != before:
                self._write(after)

    def convert_old(self) -> None:
        """If there is no file yet, convert the files of earlier versions, and remove these."""
        folder = self.path.parent
        if self._content() or not old_results(folder):
            return
        with exclusive(self.path):
            found = old_results(folder)
            if found and not self._content():  # unless another process has just done it
                self._write(list(found.values()))
                _remove_old(folder, found)

    def _content(self) -> bytes:
        """All complete lines."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        return content[: content.rfind(b"\n") + 1]

    def _write(self, results: Sequence[Result]) -> None:
        """Write a new file; its first line holds the most frequent value of each common key."""
        common: Result = {"schema": SCHEMA}
        for key in _COMMON:
            if values := [json.dumps(result[key]) for result in results if key in result]:
                common[key] = json.loads(mode(values))
        common["config"] = self._config
        lines = [common, *(_own(common, result) for result in results)]
        write_atomically(self.path, b"".join(map(_line, lines)))

    def _common(self, line: str) -> Result:
        """The first line.

        Raises:
            DataError: it is damaged, or of a later version.
        """
        common = self._parsed(1, line)
        if common.get("schema") != SCHEMA or not isinstance(common.get("config"), dict):
            raise DataError(
                f"{self.path}: line 1: found schema {common.get('schema')!r}, expected {SCHEMA} "
                "and the key 'config'; the file is damaged or of a later LUMOS. Update LUMOS, or "
                "choose another folder"
            )
        return common

    def _parsed(self, number: int, line: str) -> Result:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise DataError(
                f"{self.path}: line {number}: found {line[:60]!r}, expected a JSON object; the "
                "file is damaged. Remove the line, and its run is repeated; if it is line 1, "
                "remove the file"
            )
        return found


# ---------------------------------------------------------------- a run and its line
def _own(common: Result, result: Result) -> Result:
    """The line of a run: what differs from the first line."""
    overrides = _differences(_seeded(common["config"], result), result["config"])
    line = _differences(_shared(common), {**result, "config": overrides})
    return {("overrides" if key == "config" else key): value for key, value in line.items()}


def _whole(common: Result, line: Result) -> Result:
    """The whole run that a line stands for."""
    result = _changed(_shared(common), line)
    overrides = result.pop("overrides", {})
    return {**result, "config": _changed(_seeded(common["config"], result), overrides)}


def _shared(common: Result) -> Result:
    return {key: value for key, value in common.items() if key in _COMMON}


def _seeded(config: Result, run: Result) -> Result:
    return {**config, "seed": run["seed"]} if "seed" in run else config


def _differences(base: Result, other: Result) -> Result:
    """What turns ``base`` into ``other``: its different values, and None for keys it lacks."""
    return {
        **{key: value for key, value in other.items() if key not in base or base[key] != value},
        **{key: None for key in base if key not in other},
    }


def _changed(base: Result, differences: Mapping[str, Any]) -> Result:
    """``base`` with :func:`_differences` applied."""
    lacking = {key for key, value in differences.items() if value is None and key in base}
    return {key: value for key, value in {**base, **differences}.items() if key not in lacking}


def _line(value: Result) -> bytes:
    return (json.dumps(value) + "\n").encode()


# ---------------------------------------------------------------- earlier versions
def old_results(folder: Path) -> dict[str, Result]:
    """Results of versions before ``results.jsonl``, by the place where each was found.

    They wrote ``runs/NAME.json`` for every run, with its whole configuration, and all runs of a
    table once more into ``results.json``, which is read only if ``runs/`` holds no results.
    """
    files = {path.name: _load(path) for path in sorted((folder / "runs").glob("*.json"))}
    if found := _only_results(files.items()):
        return found
    table = _load(folder / "results.json")
    runs = enumerate(table if isinstance(table, list) else [], start=1)
    return _only_results((f"run {number} of results.json", run) for number, run in runs)


def _only_results(found: Iterable[tuple[str, Any]]) -> dict[str, Result]:
    """Those that are complete. Others stay where they are; their runs are repeated if requested."""
    return {
        name: value
        for name, value in found
        if isinstance(value, dict) and isinstance(value.get("config"), dict)
    }


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _remove_old(folder: Path, taken: Mapping[str, Result]) -> None:
    """Remove the files whose results have all been taken over."""
    runs = folder / "runs"
    for name in taken:
        (runs / name).unlink(missing_ok=True)
    if runs.is_dir() and not any(runs.iterdir()):
        runs.rmdir()
    table = _load(folder / "results.json")
    if isinstance(table, list) and all(run in taken.values() for run in table):
        (folder / "results.json").unlink()
