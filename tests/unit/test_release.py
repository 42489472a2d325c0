"""What is released: which files belong to it, and that they agree about themselves."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lumos_core", "client_app", "server_app")


class TestFiles:
    def test_every_package_has_an_init(self) -> None:
        folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
        assert not sorted(folder for folder in folders if not (folder / "__init__.py").exists())

    @pytest.mark.skipif(
        not (ROOT / ".git").exists() or shutil.which("git") is None, reason="not a git checkout"
    )
    def test_git_ignores_no_source_file(self) -> None:
        # a name in .gitignore without a leading slash also hides packages of that name
        command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--"]
        found = subprocess.run(
            [*command, *PACKAGES, "tests"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert not [name for name in found.stdout.splitlines() if name.endswith(".py")]
