"""What is released: which files belong to it, and that they agree about themselves."""

import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest
import yaml

import lumos_core

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lumos_core", "client_app", "server_app")
IN_GIT = (ROOT / ".git").exists() and shutil.which("git") is not None
FILES = [
    ".gitignore",
    "README.md",
    "docs/privacy.md",
    "docs/results/table.md",
    "client_app/client.py",
    "lumos_core/py.typed",
    "lumos_core/data/sample/items.tsv",
    "tests/data/cases/log.csv",
]


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location(
        "release_check", ROOT / "scripts/release_check.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestFiles:
    def test_every_package_has_an_init(self) -> None:
        folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
        assert not sorted(folder for folder in folders if not (folder / "__init__.py").exists())

    @pytest.mark.skipif(not IN_GIT, reason="not a git checkout")
    def test_git_ignores_no_source_file(self) -> None:
        # a name in .gitignore without a leading slash also hides packages of that name
        command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--"]
        found = subprocess.run(
            [*command, *PACKAGES, "tests"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert not [name for name in found.stdout.splitlines() if name.endswith(".py")]


class TestCitation:
    CITATION = yaml.load((ROOT / "CITATION.cff").read_text("utf-8"), Loader=yaml.BaseLoader)

    def test_the_version_is_that_of_the_project(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        assert self.CITATION["version"] == project["version"] == lumos_core.__version__
        assert self.CITATION["license"] == project["license"]

    def test_it_is_valid(self) -> None:
        vendored = resources.files("check_jsonschema") / "builtin_schemas/vendor"
        schema = json.loads((vendored / "citation-file-format.json").read_text("utf-8"))
        text = (ROOT / "CITATION.cff").read_text("utf-8")
        jsonschema.validate(yaml.safe_load(text), schema)

    def test_the_paper_is_the_one_of_the_readme(self) -> None:
        paper = self.CITATION["preferred-citation"]["url"]
        assert paper in (ROOT / "README.md").read_text("utf-8")


# ---------------------------------------------------------------- make release-check
def make_sdist(folder: Path, names: Sequence[str]) -> Path:
    path = folder / "lumos-9.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"lumos-9/{name}"), io.BytesIO())
    return path


def make_wheel(folder: Path, names: Sequence[str], metadata: str = "") -> Path:
    path = folder / "lumos-9-py3-none-any.whl"
    head = "Metadata-Version: 2.4\nName: lumos\nVersion: 9\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
        archive.writestr("lumos-9.dist-info/METADATA", head + metadata)
    return path


class TestContents:
    def test_whole_ones_pass(self, release: ModuleType, tmp_path: Path) -> None:
        names = [name for name in FILES if not name.startswith(release.NOT_RELEASED)]
        release.check_sdist(make_sdist(tmp_path, [*names, "PKG-INFO"]), FILES)
        packaged = [name for name in FILES if name.startswith(release.PACKAGES)]
        release.check_wheel(make_wheel(tmp_path, packaged), FILES, "9")

    @pytest.mark.parametrize(
        ("lacks", "also", "told"),
        [
            ("tests/data/cases/log.csv", "", "lacks tests/data/cases/log.csv; add them to MANI"),
            ("", "docs/results/table.md", "also holds docs/results/table.md; MANIFEST.in should"),
        ],
    )
    def test_a_wrong_sdist(
        self,
        release: ModuleType,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        lacks: str,
        also: str,
        told: str,
    ) -> None:
        names = {name for name in FILES if not name.startswith(release.NOT_RELEASED)}
        path = make_sdist(tmp_path, sorted((names | {also}) - {lacks, ""}))
        with pytest.raises(SystemExit):
            release.check_sdist(path, FILES)
        assert told in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("lacks", "also", "version", "told"),
        [
            ("lumos_core/py.typed", "", "9", "lacks lumos_core/py.typed; see [tool.setuptools]"),
            ("lumos_core/data/sample/items.tsv", "", "9", "lacks lumos_core/data/sample/items"),
            ("", "tests/support/tiny.py", "9", "also holds tests/support/tiny.py; see"),
            ("", "", "8", "is of version 9; pyproject.toml has 8"),
        ],
    )
    def test_a_wrong_wheel(
        self,
        release: ModuleType,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        lacks: str,
        also: str,
        version: str,
        told: str,
    ) -> None:
        names = {name for name in FILES if name.startswith(release.PACKAGES)}
        path = make_wheel(tmp_path, sorted((names | {also}) - {lacks, ""}))
        with pytest.raises(SystemExit):
            release.check_wheel(path, FILES, version)
        assert told in capsys.readouterr().err

    def test_metadata_that_an_index_would_refuse(
        self, release: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = [name for name in FILES if name.startswith(release.PACKAGES)]
        with pytest.raises(SystemExit):
            release.check_wheel(
                make_wheel(tmp_path, names, "License-Expression: own\n"), FILES, "9"
            )
        assert "license" in capsys.readouterr().err

    def test_a_file_that_is_gone(
        self, release: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            release.build(["nowhere.py"], tmp_path)
        assert "nowhere.py: git knows this file, but it is gone" in capsys.readouterr().err


class TestRun:
    VERSION = f"lumos {lumos_core.__version__}"
    COMPLETED = '{"outcome": "completed", "rounds": 2}'

    def lumos(self, folder: Path, version: str, summary: str, code: int = 0) -> Path:
        """An environment whose command writes this summary, and its variables beside it."""
        program = folder / "bin" / "lumos"
        program.parent.mkdir()
        program.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            f"if sys.argv[1:] == ['--version']:\n    print({version!r})\n    sys.exit()\n"
            "os.mkdir('run')\n"
            "open('variables.json', 'w').write(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
            f"open('run/summary.json', 'w').write({summary!r})\nsys.exit({code})\n"
        )
        program.chmod(0o755)
        return folder

    def test_it_runs_with_an_empty_home_and_none_of_these_variables(
        self, release: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("PYTHONPATH", "LUMOS_CACHE", "VIRTUAL_ENV", "HF_HOME"):
            monkeypatch.setenv(name, str(ROOT))
        elsewhere = tmp_path / "elsewhere"
        venv = self.lumos(tmp_path, self.VERSION, self.COMPLETED)
        release.run_elsewhere(venv, elsewhere, ["-c", "view-share=0.1"])
        arguments, variables = json.loads((elsewhere / "variables.json").read_text())
        assert arguments[:3] == ["run", "--rounds", "2"]
        assert arguments[-2:] == ["-c", "view-share=0.1"]
        assert not any(str(ROOT) in value for value in variables.values())
        for name in ("HOME", "XDG_CACHE_HOME"):
            assert Path(variables[name]).parent == elsewhere
            assert not list(Path(variables[name]).iterdir())

    @pytest.mark.parametrize(
        ("version", "summary", "code", "told"),
        [
            ("lumos 8", COMPLETED, 0, "lumos --version: exit code 0\nlumos 8"),
            (VERSION, COMPLETED, 3, "lumos run ended with exit code 3; its logs are in"),
            (VERSION, "{", 0, "its summary cannot be read"),
            (VERSION, '{"outcome": "failed"}', 0, "found {'outcome': 'failed', 'rounds': None}"),
            (VERSION, '{"outcome": "completed", "rounds": 1}', 0, "and rounds 2"),
        ],
    )
    def test_what_fails_is_told(
        self,
        release: ModuleType,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        version: str,
        summary: str,
        code: int,
        told: str,
    ) -> None:
        venv = self.lumos(tmp_path, version, summary, code)
        with pytest.raises(SystemExit):
            release.run_elsewhere(venv, tmp_path / "elsewhere", [])
        assert told in capsys.readouterr().err
