"""The version of a folder in which LUMOS keeps state, in the folder's ``folder.json``.

Files have schema versions of their own (:class:`~lumos_core.safe_files.JsonFile`). The folder's
version is about everything that is kept there: which files there are, what they are called, those
that are no JSON. A change that an older LUMOS would misread adds a step to :data:`MIGRATIONS`. Then
an older folder is migrated when it is opened, and a folder that a newer LUMOS has migrated is
refused, with what to install.

A folder without the file is of version 1, as LUMOS 0.1 left it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from lumos_core import __version__
from lumos_core.errors import DataError, LumosError, NewerFileError
from lumos_core.safe_files import JsonFile

FILE = "folder.json"
Kind = Literal["node state", "server state", "run"]
Step = Callable[[Path], None]
MIGRATIONS: Mapping[Kind, tuple[Step, ...]] = {"node state": (), "server state": (), "run": ()}
"""By kind of folder: the first step turns version 1 into version 2, and so on. A step may be
interrupted and is then done again, so it has to bear files that are changed already, or missing."""


class FolderVersion(JsonFile):
    """The file's content.

    Attributes:
        kind: what the folder holds.
        version: of the folder.
        lumos: the release that wrote this file.
    """

    failure: ClassVar[type[LumosError]] = DataError
    repair: ClassVar[str] = (
        "it is damaged; restore it from a copy, or delete it if this folder was never used by a "
        "newer LUMOS"
    )

    kind: str
    version: int
    lumos: str


def newest(kind: Kind) -> int:
    """The version to which this LUMOS migrates a folder."""
    return 1 + len(MIGRATIONS[kind])


def check_folder(folder: Path, kind: Kind) -> int:
    """The version of a folder, which may be missing. Nothing is written.

    Raises:
        NewerFileError: a newer LUMOS migrated it.
        DataError: its ``folder.json`` is damaged, or that of another kind of folder.
    """
    found = FolderVersion.read_if_there(folder / FILE)
    if found is None:
        return 1
    if found.kind != kind:
        raise DataError(
            f"{folder / FILE}: found a folder of the kind {found.kind!r}, expected {kind!r}; name "
            "another folder"
        )
    if found.version > newest(kind):
        raise NewerFileError(
            f"{folder}: its {kind} has version {found.version}, written by LUMOS {found.lumos}; "
            f"this LUMOS {__version__} knows versions 1 to {newest(kind)}: "
            f"pip install lumos=={found.lumos}, or name another folder"
        )
    return found.version


def open_folder(folder: Path, kind: Kind) -> None:
    """Migrate a folder to this LUMOS's version, unless it has it, and write that down.

    Args:
        folder: it exists, and no other process uses it.
        kind: what it holds.

    Raises:
        NewerFileError, DataError: see :func:`check_folder`.
        OSError: it cannot be written.
    """
    version = check_folder(folder, kind)
    for step in MIGRATIONS[kind][version - 1 :]:
        step(folder)
        version += 1
        _write(folder, kind, version)
    if not (folder / FILE).exists():
        _write(folder, kind, version)


def _write(folder: Path, kind: Kind, version: int) -> None:
    FolderVersion(kind=kind, version=version, lumos=__version__).write(folder / FILE)
