"""Other releases of LUMOS: the previous one as a wheel made from git, and imagined ones."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from lumos_core.flower import app_archive, commands

ROOT = Path(__file__).resolve().parents[2]
PREVIOUS = "e5e37ce8ff6b4c4bc954e4dbb89b587e6bdc673d"
"""The last commit of release 0.1.0, which told no versions."""
_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "lumos_core", "client_app", "server_app")


def previous_release(folder: Path) -> Path:
    """A folder for ``PYTHONPATH`` with the previous release, installed from a wheel of it.

    It uses the packages of this environment. The test is skipped where git does not have it.
    """
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the previous release comes from git, and this is no git checkout")
    archive = folder / "previous.tar"
    command = ["git", "archive", "--output", str(archive), PREVIOUS, "--", *_SOURCES]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"this clone has no commit {PREVIOUS[:7]}, the previous release: it is shallow")
    source = folder / "source"
    shutil.unpack_archive(archive, source, "tar", filter="data")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "-w", str(folder), str(source)], check=True)
    [wheel] = folder.glob("lumos-*.whl")
    target = folder / "previous"
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True)
    return target


def imagined_release(release: str, protocol: int) -> dict[str, bytes]:
    """The files of the app as another release would have them.

    Args:
        release: its number.
        protocol: what it speaks.
    """
    files = commands.app_files()
    for path, pattern, line in (
        ("lumos_core/__init__.py", rb'^__version__ = ".*"$', f'__version__ = "{release}"'),
        ("lumos_core/wire/versions.py", rb"^PROTOCOL = \d+$", f"PROTOCOL = {protocol}"),
    ):
        files[path], count = re.subn(pattern, line.encode(), files[path], flags=re.MULTILINE)
        assert count == 1, path
    metadata: Any = tomllib.loads(files[app_archive.PROJECT].decode())
    metadata["project"]["version"] = release
    metadata["tool"]["lumos"]["protocol"] = protocol
    files[app_archive.PROJECT] = tomli_w.dumps(metadata).encode()
    return files
