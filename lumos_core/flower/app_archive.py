"""An app as an archive: its files, read within limits, and the digest that stands for them.

The digest is the SHA-256 of one line per file, sorted by path, each as ``sha256sum`` prints it: the
file's SHA-256, two spaces, the path. Every file counts, as a module that nobody expects could take
the place of another. Two things are left out: ``.info/CONTENT``, in which Flower lists the files
once more, and the table ``[tool.flwr.app.config]`` of ``pyproject.toml``, the defaults of keys
that every run may set anyway. For that, ``pyproject.toml`` counts as JSON with sorted keys.

``app_gate.py`` loads the file by its path, so it imports nothing but the standard library.
"""

import hashlib
import json
import re
import tomllib
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

MOST_BYTES = 10 * 2**20  # of an archive: what Flower itself allows
MOST_UNPACKED = 64 * 2**20
MOST_FILES = 5000
PROJECT = "pyproject.toml"
_CONTENT = ".info/CONTENT"
_PATH = re.compile(r"[ -9;-\[\]-~]{1,200}")  # printable ASCII without : and \
_DATE = (1980, 1, 1, 0, 0, 0)  # equal files make equal archives


class BadArchiveError(ValueError):
    """An archive that is too large or malformed; the text quotes nothing but numbers and types."""


def read(archive: bytes) -> dict[str, bytes]:
    """The files of an archive, by path.

    Raises:
        BadArchiveError: it is too large, cannot be read, or has paths that no app needs.
    """
    if len(archive) > MOST_BYTES:
        raise BadArchiveError(f"it has {len(archive)} bytes, at most {MOST_BYTES} are allowed")
    try:
        with zipfile.ZipFile(BytesIO(archive)) as opened:
            return _unpacked(opened)
    except BadArchiveError:
        raise
    except Exception as error:  # zipfile and zlib have a dozen ways to say it
        raise BadArchiveError(f"it cannot be unpacked ({type(error).__name__})") from None


def _unpacked(opened: zipfile.ZipFile) -> dict[str, bytes]:
    entries = opened.infolist()
    if len(entries) > MOST_FILES:
        raise BadArchiveError(f"it has {len(entries)} files, at most {MOST_FILES} are allowed")
    size = sum(entry.file_size for entry in entries)
    if size > MOST_UNPACKED:
        raise BadArchiveError(
            f"it has {size} bytes when unpacked, at most {MOST_UNPACKED} are allowed"
        )
    files = {}
    for entry in entries:
        _check_entry(entry)
        with opened.open(entry) as file:
            content = file.read(entry.file_size + 1)
        if len(content) != entry.file_size:
            raise BadArchiveError("a file has another size than the archive says")
        files[entry.filename] = content
    if len({path.casefold() for path in files}) < len(entries):
        raise BadArchiveError("two of its files have the same path")
    files.pop(_CONTENT, None)
    _check_paths(files)
    return files


def _check_entry(entry: zipfile.ZipInfo) -> None:
    parts = entry.filename.split("/")
    if entry.filename != entry.orig_filename or not _PATH.fullmatch(entry.filename):
        raise BadArchiveError("a path has characters that no app needs")
    if any(part in ("", ".", "..") for part in parts):
        raise BadArchiveError("a path is absolute, leads out of the app, or is that of a folder")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadArchiveError("a file is compressed in another way than Flower does")


def _check_paths(files: Mapping[str, bytes]) -> None:
    folders = {str(folder) for path in files for folder in Path(path).parents}
    if folders & files.keys():
        raise BadArchiveError("a path is that of a file and of a folder")
    if ".info" in folders or PROJECT not in files:
        raise BadArchiveError(f"it has no {PROJECT}, or more than a list of files in .info")


def write(files: Mapping[str, bytes]) -> bytes:
    """An archive that :func:`read` turns back into the files."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(path, _DATE), content)
    return buffer.getvalue()


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files below a folder."""
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def digest(files: Mapping[str, bytes]) -> str:
    """The digest of an app: 64 hexadecimal digits.

    Raises:
        BadArchiveError: ``pyproject.toml`` cannot be read.
    """
    counted = {**files, PROJECT: _without_defaults(files[PROJECT])}
    sums = {path: hashlib.sha256(content).hexdigest() for path, content in counted.items()}
    lines = "".join(f"{sums[path]}  {path}\n" for path in sorted(sums))
    return hashlib.sha256(lines.encode()).hexdigest()


def _without_defaults(project: bytes) -> bytes:
    try:
        table = tomllib.loads(project.decode())
        app = table.get("tool", {}).get("flwr", {}).get("app", {})
        app.pop("config", None)
        return json.dumps(table, sort_keys=True, default=str).encode()
    except Exception as error:  # also tables that are none, and those nested too deeply
        raise BadArchiveError(f"{PROJECT} cannot be read ({type(error).__name__})") from None


def differences(files: Mapping[str, bytes], expected: Mapping[str, bytes]) -> list[str]:
    """What makes an app another one than expected: ``client_app/client.py differs``."""
    found = []
    for path in sorted({*files, *expected}):
        if path not in expected:
            found.append(f"{path} is added")
        elif path not in files:
            found.append(f"{path} is missing")
        elif _counted(path, files[path]) != _counted(path, expected[path]):
            found.append(f"{path} differs")
    return found


def _counted(path: str, content: bytes) -> bytes:
    return _without_defaults(content) if path == PROJECT else content
