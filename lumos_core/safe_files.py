"""Safe files: written completely or not at all, locked against other processes, private if needed.

JSON files that LUMOS writes and reads back are :class:`JsonFile`, with a subclass for each kind.
"""

import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lumos_core.errors import DataError, LumosError, NewerFileError, reason_of


def private_folder(path: Path) -> None:
    """Make a folder that only this user can read; if it is there and this user's, take the
    permissions of all others away.

    A folder with the sticky bit, such as /tmp, is meant for everybody and stays as it is.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    shared = found.st_mode & stat.S_ISVTX
    if found.st_uid == os.geteuid() and found.st_mode & 0o077 and not shared:
        path.chmod(stat.S_IMODE(found.st_mode) & ~0o077)


def owner_only(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open`: a file that it makes is for this user alone (mode 0600)."""
    return os.open(path, flags, 0o600)


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write to a temporary file beside ``path``, flush to disk, then rename over it."""
    with (
        replacing(path, mode) as temporary,
        os.fdopen(os.open(temporary, os.O_WRONLY), "wb") as file,
    ):
        file.write(content)


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Write a file atomically with code that needs a file name.

    Yields the name of an empty temporary file beside ``path``. When the block ends without an
    exception, the temporary file is flushed to disk and renamed over ``path``; otherwise it is
    removed.

    Args:
        path: the file.
        mode: permissions of the file; until it is complete, only its owner can read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable by people."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


class JsonFile(BaseModel):
    """The content of a JSON file that LUMOS writes and reads back; each kind of file is a subclass.

    Keys that a subclass does not know are ignored, so that this LUMOS can read files to which a
    newer one has added keys. A change that an older LUMOS would misread must raise the default of
    ``schema_version``; :meth:`upgraded` then turns the content of older files into the new form.

    Attributes:
        failure: the error that is raised for a file that cannot be read or is damaged.
        repair: what the user can do about a damaged file.
        origin: what was expected instead of a file that cannot be read.
        schema_version: version of the file's schema. A file without one was written before there
            were versions and counts as version 1.
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="ignore",
        ser_json_bytes="hex",
        val_json_bytes="hex",
        validate_by_alias=True,
        validate_by_name=True,
    )
    failure: ClassVar[type[LumosError]] = DataError
    repair: ClassVar[str] = "the file is damaged"
    origin: ClassVar[str] = ""

    schema_version: int = Field(default=1, alias="schema_version")

    @classmethod
    def read(cls, path: Path, repair: str = "") -> Self:
        """The content of a file.

        Args:
            path: the file.
            repair: what the user can do if it is damaged; replaces the class's own advice.

        Raises:
            LumosError: the class's ``failure``: the file cannot be read, is not JSON, lacks a key
                or has a value of another type.
            NewerFileError: a newer LUMOS wrote it.
        """
        found = cls.read_if_there(path, repair)
        if found is None:
            raise cls._unreadable(path, os.strerror(errno.ENOENT))
        return found

    @classmethod
    def read_if_there(cls, path: Path, repair: str = "") -> Self | None:
        """Like :meth:`read`, but None if there is no such file."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise cls._unreadable(path, reason_of(error)) from error
        return cls._parsed(path, content, repair or cls.repair)

    @classmethod
    def read_if_sound(cls, path: Path) -> Self | None:
        """Like :meth:`read`, but None if there is no such file or it is damaged: for files that can
        be made again. A file that a newer LUMOS wrote is still refused."""
        try:
            return cls.read_if_there(path)
        except NewerFileError:
            raise
        except cls.failure:
            return None

    def write(self, path: Path, mode: int = 0o644) -> None:
        """Write the file atomically, readable by people. Raises OSError if the disk refuses it."""
        write_atomically(path, _json(self.content(), indent=2) + b"\n", mode)

    def content(self) -> dict[str, Any]:
        """The JSON object that :meth:`write` writes."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def upgraded(cls, found: dict[str, Any], version: int) -> dict[str, Any]:
        """The content of an older file in today's form.

        Args:
            found: the content of the file.
            version: version of its schema.
        """
        return found

    @classmethod
    def _parsed(cls, path: Path, content: bytes, repair: str) -> Self:
        try:
            found = json.loads(content)
        except ValueError as error:
            raise cls.failure(f"{path}: is not JSON ({error}); {repair}") from None
        if isinstance(found, dict):
            found = cls._current(path, found, repair)
        try:
            return cls.model_validate_json(
                _json(found)
            )  # from JSON it also accepts tuples and bytes
        except ValidationError as error:
            raise cls.failure(f"{path}: {_complaint(error)}; {repair}") from None

    @classmethod
    def _current(cls, path: Path, found: dict[str, Any], repair: str) -> dict[str, Any]:
        field = cls.model_fields["schema_version"]
        key, newest = str(field.alias), int(field.default)
        version = found.get(key, 1)
        if type(version) is not int or version < 1:
            known = f"a whole number from 1 to {newest}" if newest > 1 else "1"
            raise cls.failure(f"{path}: key '{key}': found {version!r}, expected {known}; {repair}")
        refuse_newer(path, version, newest)
        return {**cls.upgraded(found, version), key: newest}

    @classmethod
    def _unreadable(cls, path: Path, reason: str) -> LumosError:
        expected = f"; expected {cls.origin}" if cls.origin else ""
        return cls.failure(f"{path}: cannot be read: {reason}{expected}")


def refuse_newer(path: Path, version: int, newest: int) -> None:
    """Check that this LUMOS understands a file.

    Args:
        path: the file.
        version: version of its schema.
        newest: the newest version that this LUMOS understands.

    Raises:
        NewerFileError: the version is newer.
    """
    if version > newest:
        known = f"versions 1 to {newest}" if newest > 1 else "version 1"
        raise NewerFileError(
            f"{path}: has schema version {version}, which a newer LUMOS wrote; this one "
            f"understands {known}: update LUMOS on this machine"
        )


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "bytes_type": "hex digits",
    "bytes_invalid_encoding": "hex digits",
    "tuple_type": "a list",
    "dict_type": "a JSON object",
    "model_type": "a JSON object",
}
"""For types of pydantic errors: what was expected, in words for users."""


def _complaint(error: ValidationError) -> str:
    """The first thing that is wrong with a file's content."""
    problem = error.errors()[0]
    key, kind = ".".join(map(str, problem["loc"])), problem["type"]
    if kind == "value_error":  # the text of a subclass's own check
        return problem["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return f"key '{key}' is missing"
    if kind == "extra_forbidden":
        return f"unknown key '{key}'"
    expected = _EXPECTED.get(kind) or problem["msg"].removeprefix("Input should be ")
    if not key:
        return f"found {type(problem['input']).__name__}, expected {expected}"
    return f"key '{key}': found {repr(problem['input'])[:60]}, expected {expected}"


def _json(value: Any, indent: int | None = None) -> bytes:
    """JSON as UTF-8; a lone surrogate, which UTF-8 cannot hold, becomes a question mark."""
    return json.dumps(value, indent=indent, ensure_ascii=False).encode(errors="replace")


class HeldError(TimeoutError):
    """Another process holds a lock file."""


def lock_beside(path: Path) -> Path:
    """The lock file for a file or folder that one process computes while the others wait."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def exclusive(
    lock: Path,
    seconds: float | None = None,
    refusal: Exception | None = None,
    mode: int | None = None,
) -> Iterator[None]:
    """Hold a lock file. The file and its folder are made if they are not there; the lock is also
    released when the process ends.

    Args:
        lock: the file.
        seconds: how long to wait for another process that holds it; None: without limit.
        refusal: the error to raise if the other process still holds it then; None: a HeldError.
            Exceptions of the block itself are not changed.
        mode: permissions of a lock file that is made here; None: as the umask says.

    Raises:
        HeldError: another process held it for all of ``seconds``.
    """
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    timeout = -1 if seconds is None else seconds
    file = FileLock(lock, timeout) if mode is None else FileLock(lock, timeout, mode)
    try:
        file.acquire()
    except Timeout as error:
        raise refusal or HeldError(str(error)) from None
    try:
        yield
    finally:
        file.release()


def older(path: Path) -> Path:
    """The name of the one old generation of a log."""
    return path.with_name(f"{path.name}.1")


def append_bounded(path: Path, text: bytes, limit: int) -> None:
    """Append to a log that only this user can read and whose size is bounded.

    A log that would grow beyond the limit is first renamed to its old generation (:func:`older`),
    which replaces the previous old generation. Processes that append to the same log wait for each
    other.

    Args:
        path: the log, in a folder that exists.
        text: whole lines.
        limit: largest size of the log in bytes; a longer text is still written, to a new log.

    Raises:
        OSError: the disk refuses it, or another process has held the log for ten seconds.
    """
    with exclusive(lock_beside(path), 10.0, mode=0o600):
        size = path.stat().st_size if path.is_file() else 0
        if size and size + len(text) > limit:
            os.replace(path, older(path))
        with open(path, "ab", opener=owner_only) as file:
            file.write(text)
