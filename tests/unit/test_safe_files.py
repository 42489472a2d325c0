"""A crash while writing leaves the old file whole and nothing beside it; a lock has one holder."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field

from lumos_core import safe_files
from lumos_core.errors import (
    ConfigError,
    DataError,
    FederationError,
    LumosError,
    NewerFileError,
)
from lumos_core.safe_files import (
    HeldError,
    JsonFile,
    append_bounded,
    exclusive,
    lock_beside,
    older,
    private_folder,
    write_atomically,
    write_json,
)


class SimulatedCrashError(BaseException):
    """Not an Exception, like KeyboardInterrupt: nothing may swallow it."""


@pytest.mark.parametrize("step", ["fdopen", "fsync", "chmod", "replace"])
@pytest.mark.parametrize("old", [None, b"old content"])
def test_a_crash_at_any_step_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, old: bytes | None
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def crash(*args: object, **kwargs: object) -> None:
        raise SimulatedCrashError

    monkeypatch.setattr(safe_files.os, step, crash)
    with pytest.raises(SimulatedCrashError):
        write_atomically(path, b"new content, much longer than the old one")
    monkeypatch.undo()
    assert (path.read_bytes() if path.exists() else None) == old
    assert [p.name for p in tmp_path.iterdir()] == (["file"] if old else [])


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    real = os.fdopen

    def full(handle: int, mode: str) -> object:
        file = real(handle, mode)
        file.write(b"par")
        file.close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safe_files.os, "fdopen", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"partly written")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_content_mode_and_missing_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, b"\x00\xff")
    write_atomically(path, b"again")
    assert path.read_bytes() == b"again"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_new_file_is_on_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*args: object, _real: object = real, _name: str = name) -> object:
            calls.append(_name)
            return _real(*args)  # type: ignore[operator]

        monkeypatch.setattr(safe_files.os, name, noted)
    write_atomically(tmp_path / "file", b"x")
    assert calls[:2] == ["fsync", "replace"]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([n]) * 200_000 for n in range(2)]
    write_atomically(path, contents[0])
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            write_atomically(path, contents[n % 2])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = {path.read_bytes() for _ in range(200)}
    finally:
        stop.set()
        thread.join()
    assert seen <= set(contents)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("usual_umask")
def test_a_private_folder_is_made_or_closed(tmp_path: Path) -> None:
    private_folder(tmp_path / "data" / "state")
    assert (mode(tmp_path / "data"), mode(tmp_path / "data" / "state")) == (0o755, 0o700)
    old = tmp_path / "old"
    old.mkdir()
    old.chmod(0o2755)
    private_folder(old)
    assert mode(old) == 0o2700
    for_all = tmp_path / "tmp"
    for_all.mkdir()
    for_all.chmod(0o1777)
    private_folder(for_all)
    assert mode(for_all) == 0o1777


def test_the_folder_of_somebody_else_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    somebody = os.geteuid() + 1
    monkeypatch.setattr(safe_files.os, "geteuid", lambda: somebody)
    private_folder(tmp_path)
    assert mode(tmp_path) == 0o755


def test_json_is_readable_by_people_and_machines(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"hr@20": 0.25, "name": "ä"})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"hr@20": 0.25, "name": "ä"}
    assert text.endswith("}\n")
    assert text.count("\n") == 4
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_json(path, {"bad": object()})
    assert path.read_bytes() == before


# ---------------------------------------------------------------- locks
def test_a_held_lock_is_refused_and_free_afterwards(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / ".running"
    refusal = FederationError("somebody else is at it")
    with exclusive(lock):
        with pytest.raises(HeldError, match=r"\.running"), exclusive(lock, 0):
            pass
        with (
            pytest.raises(FederationError, match="somebody else") as caught,
            exclusive(lock, 0.01, refusal),
        ):
            pass
        assert caught.value is refusal
    with exclusive(lock, 0):
        pass


def test_what_the_block_raises_is_not_taken_for_a_held_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with pytest.raises(TimeoutError, match="a socket's"), exclusive(lock, 0, FederationError("x")):
        raise TimeoutError("a socket's")
    with pytest.raises(HeldError, match="another lock"), exclusive(lock, 0, FederationError("x")):
        raise HeldError("another lock")


def test_a_lock_is_waited_for_and_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import sys, pathlib; from lumos_core.safe_files import exclusive\n"
        f"with exclusive(pathlib.Path({str(lock)!r})):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HeldError), exclusive(lock, 0):
            pass
        threading.Timer(0.2, holder.kill).start()
        with exclusive(lock, 20):
            assert holder.wait(20) != 0


@pytest.mark.usefixtures("usual_umask")
def test_the_lock_file_has_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    with exclusive(tmp_path / "own", mode=0o600), exclusive(tmp_path / "usual"):
        assert mode(tmp_path / "own") == 0o600
        assert mode(tmp_path / "usual") & 0o044
    assert lock_beside(tmp_path / "model") == tmp_path / ".model.lock"


# ---------------------------------------------------------------- JSON files
class Colour(BaseModel):
    name: str
    share: float = 0.0


class Palette(JsonFile):
    """A kind of file that has changed once: version 1 had its colours' names only."""

    failure: ClassVar[type[LumosError]] = ConfigError
    repair: ClassVar[str] = "paint it again"
    origin: ClassVar[str] = "a palette"

    schema_version: int = Field(default=2, alias="schema_version")
    size: int
    colours: tuple[Colour, ...] = ()
    key: bytes = b""
    notes: dict[str, float] = Field(default_factory=dict)

    @classmethod
    def upgraded(cls, found: dict[str, Any], version: int) -> dict[str, Any]:
        assert version in (1, 2)
        if version == 1 and "colours" in found:
            return {**found, "colours": [{"name": name} for name in found["colours"]]}
        return found


class Closed(JsonFile):
    model_config = ConfigDict(extra="forbid")

    schema_version: int = Field(default=1, alias="format")
    size: int = 0


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a" / "palette.json"
    palette = Palette(
        size=3, colours=(Colour(name="grün", share=0.5),), key=b"\x00\xff",
        notes={"inf": float("inf")},
    )  # fmt: skip
    palette.write(path, mode=0o600)
    assert Palette.read(path) == Palette.read_if_there(path) == palette
    assert mode(path) == 0o600
    text = path.read_text("utf-8")
    assert text.startswith('{\n  "schema_version": 2,\n')
    assert "grün" in text
    assert text.endswith("}\n")


def test_text_that_utf_8_lacks_loses_a_letter_not_the_file(tmp_path: Path) -> None:
    Palette(size=1, colours=(Colour(name="a\udc80b"),)).write(tmp_path / "a")
    (tmp_path / "b").write_text('{"size": 1, "colours": ["a\\udc80b"]}')
    for name in ("a", "b"):
        assert Palette.read(tmp_path / name).colours[0].name == "a?b"


def test_a_file_without_a_version_is_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "palette.json"
    for version in ("", ', "schema_version": 1'):
        path.write_text('{"size": 3, "colours": ["red"]' + version + "}")
        assert Palette.read(path) == Palette(size=3, colours=(Colour(name="red"),))
    assert Palette.read(path).schema_version == 2, "what is in memory is in today's form"


def test_keys_that_a_newer_lumos_has_added_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "palette.json"
    path.write_text(
        '{"schema_version": 2, "size": 3, "colours": [{"name": "x", "hue": 1}], "a": 0}'
    )
    assert Palette.read(path) == Palette(size=3, colours=(Colour(name="x"),))
    path.write_text('{"format": 1, "size": 3, "a": 0}')
    with pytest.raises(DataError, match=r"unknown key 'a'; the file is damaged"):
        Closed.read(path)


@pytest.mark.parametrize("read", [Palette.read, Palette.read_if_there, Palette.read_if_sound])
def test_a_file_of_a_newer_version_is_refused_with_what_to_do(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "palette.json"
    path.write_text('{"schema_version": 3, "size": "of another kind"}')
    with pytest.raises(NewerFileError) as found:
        read(path)
    assert str(found.value) == (
        f"{path}: has schema version 3, which a newer LUMOS wrote; this one understands versions "
        "1 to 2: update LUMOS on this machine"
    )
    path.write_text('{"format": 2}')
    with pytest.raises(NewerFileError, match=r"version 2, .* understands version 1: update"):
        Closed.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON (Expecting value: line 1 column 1 (char 0)); paint it again"),
        ("{", "is not JSON (Expecting property name"),
        ("[]", "found list, expected a JSON object; paint it again"),
        ("{}", "key 'size' is missing; paint it again"),
        ('{"size": "3"}', "key 'size': found '3', expected a whole number; paint it again"),
        ('{"size": true}', "key 'size': found True, expected a whole number"),
        ('{"size": 3.5}', "key 'size': found 3.5, expected a whole number"),
        ('{"size": 1, "notes": []}', "key 'notes': found [], expected a JSON object"),
        ('{"size": 1, "notes": {"a": "b"}}', "key 'notes.a': found 'b', expected a number"),
        ('{"size": 1, "colours": [1]}', "key 'colours.0.name': found 1, expected text"),
        ('{"size": 1, "schema_version": 2, "colours": 1}', "'colours': found 1, expected a list"),
        ('{"size": 1, "schema_version": 2, "colours": [{}]}', "'colours.0.name' is missing"),
        ('{"size": 1, "key": "x"}', "key 'key': found 'x', expected hex digits"),
        ('{"schema_version": "1"}', "found '1', expected a whole number from 1 to 2; paint"),
        ('{"schema_version": true}', "found True, expected a whole number from 1 to 2"),
        ('{"schema_version": 0}', "key 'schema_version': found 0, expected a whole number from"),
        ("\udcff", "is not JSON ("),
    ],
)
def test_damage_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "palette.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    for read in (Palette.read, Palette.read_if_there):
        with pytest.raises(ConfigError) as found:
            read(path)
        assert str(found.value).startswith(f"{path}: ")
        assert message in str(found.value)
    assert Palette.read_if_sound(path) is None
    with pytest.raises(ConfigError, match=r"; buy a new one$"):
        Palette.read(path, repair="buy a new one")


def test_a_file_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "palette.json"
    assert Palette.read_if_there(missing) is None
    assert Palette.read_if_sound(missing) is None
    with pytest.raises(ConfigError) as found:
        Palette.read(missing)
    assert str(found.value) == (
        f"{missing}: cannot be read: No such file or directory; expected a palette"
    )
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory; expected a palette"):
        Palette.read_if_there(tmp_path)
    with pytest.raises(DataError, match=r"cannot be read: No such file or directory$"):
        Closed.read(missing)


def test_a_bounded_log_has_one_old_generation(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    for number in range(10):
        append_bounded(log, f"line {number}\n".encode(), 16)
    assert log.read_text() == "line 8\nline 9\n"
    assert older(log).read_text() == "line 6\nline 7\n"
    assert older(log).name == "x.log.1"
    assert {p.name for p in tmp_path.iterdir()} <= {"x.log", "x.log.1", ".x.log.lock"}
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_text_longer_than_the_bound_has_a_log_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    append_bounded(log, b"a\n", 4)
    append_bounded(log, b"much longer\n", 4)
    append_bounded(log, b"b\n", 4)
    assert (older(log).read_text(), log.read_text()) == ("much longer\n", "b\n")


def test_processes_that_append_to_one_log_leave_whole_lines(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lumos_core.safe_files import append_bounded\n"
        "for n in range(200): append_bounded(Path(sys.argv[1]), b'0123456789' * 9 + b'\\n', 5000)"
    )
    log = tmp_path / "x.log"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(log)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    for path, least in ((log, 1), (older(log), 50)):
        lines = path.read_text().splitlines()
        assert len(lines) >= least
        assert set(lines) == {"0123456789" * 9}
        assert path.stat().st_size <= 5000
