"""The setup of the virtual environment: which PyTorch, what is repaired, what is said."""

import importlib.util
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "setup_venv.py"
CUDA = {
    "requires_dist": [
        "filelock",
        'cuda-bindings<14,>=13.0.3; platform_system == "Linux"',
        'nvidia-cudnn-cu13==9.20.0.48; platform_system == "Linux"',
    ]
}
NO_CUDA = {"requires_dist": ["filelock", 'nvidia-extras; extra == "all"']}


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delenv("LUMOS_TORCH", raising=False)
    spec = importlib.util.spec_from_file_location("setup_venv", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Pip:
    """Remembers what pip is asked for, and answers a dry run with a file of PyTorch."""

    def __init__(self, setup: ModuleType, name: str, metadata: dict[str, object]) -> None:
        import json

        self.installs: list[tuple[str, ...]] = []
        self.asked: list[tuple[str, ...]] = []
        report = {
            "install": [{"download_info": {"url": f"https://x/{name}"}, "metadata": metadata}]
        }
        self._report = json.dumps(report)
        setup.pip = lambda venv, *arguments: self.installs.append(arguments)
        setup.output = self._output

    def _output(self, venv: Path, *arguments: str) -> str:
        self.asked.append(arguments)
        return self._report


def venv_with(tmp_path: Path, *packages: str) -> Path:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for package in packages:
        (site / f"{package}.dist-info").mkdir(parents=True)
    return tmp_path


class TestTorch:
    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no build needs CUDA")
    def test_a_build_with_cuda_is_refused_before_it_is_loaded(
        self, setup: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pip = Pip(setup, "torch-9.whl", CUDA)
        setup.why_unreachable = lambda url: "no such host"
        with pytest.raises(SystemExit):
            setup.install_torch(tmp_path)
        told = capsys.readouterr().err
        assert "torch-9.whl, a build with CUDA" in told
        assert "no such host" in told
        assert "LUMOS_TORCH=cuda" in told
        assert not pip.installs

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyPI's build has no CUDA")
    def test_the_index_of_builds_without_cuda_is_used_where_it_answers(
        self, setup: ModuleType, tmp_path: Path
    ) -> None:
        pip = Pip(setup, "torch-9%2Bcpu.whl", NO_CUDA)
        setup.why_unreachable = lambda url: ""
        setup.install_torch(tmp_path)
        (install,) = pip.installs
        assert install[-3:] == ("--extra-index-url", setup.CPU_INDEX, setup.pinned("torch"))

    def test_a_local_wheel_is_enough_where_the_index_does_not_answer(
        self, setup: ModuleType, tmp_path: Path
    ) -> None:
        pip = Pip(setup, "torch-9%2Bcpu.whl", NO_CUDA)
        setup.why_unreachable = lambda url: "no such host"
        setup.install_torch(tmp_path)
        assert pip.installs == [("install", "--no-deps", setup.pinned("torch"))]

    def test_cuda_is_to_be_had_by_name(
        self, setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pip = Pip(setup, "torch-9.whl", CUDA)
        monkeypatch.setenv("LUMOS_TORCH", "cuda")
        setup.install_torch(tmp_path)
        (install,) = pip.installs
        assert "--no-deps" not in install  # CUDA's packages are not in the lock file
        assert "--extra-index-url" not in install

    def test_an_index_of_ones_own(
        self, setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pip = Pip(setup, "torch-9.whl", CUDA)
        monkeypatch.setenv("LUMOS_TORCH", "https://mirror/whl/cpu")
        setup.install_torch(tmp_path)
        assert pip.installs[0][-3:-1] == ("--extra-index-url", "https://mirror/whl/cpu")

    def test_the_pinned_version_is_not_installed_again(
        self, setup: ModuleType, tmp_path: Path
    ) -> None:
        pip = Pip(setup, "torch-9.whl", CUDA)
        version = setup.pinned("torch").removeprefix("torch==")
        setup.install_torch(venv_with(tmp_path, f"torch-{version}+cpu"))
        assert not pip.installs
        assert not pip.asked

    def test_another_word_is_refused_before_anything_is_done(
        self, setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LUMOS_TORCH", "gpu")
        with pytest.raises(SystemExit):
            setup.main([str(tmp_path / "venv")])
        assert not (tmp_path / "venv").exists()

    def test_an_index_that_does_not_answer(self, setup: ModuleType) -> None:
        assert setup.why_unreachable("http://127.0.0.1:1")
        assert setup.why_unreachable("nonsense")


class TestRepair:
    @staticmethod
    def package(tmp_path: Path, content: str = "x = 1\n") -> Path:
        site = venv_with(tmp_path, "thing-1") / "lib" / "python3.11" / "site-packages"
        (site / "thing.py").write_text(content)
        record = "thing.py,sha256=abc,6\nthing-1.dist-info/RECORD,,\n__pycache__/thing.pyc,,\n"
        (site / "thing-1.dist-info" / "RECORD").write_text(record)
        return site

    def test_a_whole_package_is_kept(self, setup: ModuleType, tmp_path: Path) -> None:
        site = self.package(tmp_path)
        setup.forget_damaged(tmp_path)
        assert (site / "thing-1.dist-info").exists()

    @pytest.mark.parametrize("damage", ["missing", "short", "no record", "empty record"])
    def test_a_damaged_one_counts_as_not_installed(
        self, setup: ModuleType, tmp_path: Path, damage: str
    ) -> None:
        site = self.package(tmp_path)
        record = site / "thing-1.dist-info" / "RECORD"
        match damage:
            case "missing":
                (site / "thing.py").unlink()
            case "short":
                (site / "thing.py").write_text("x")
            case "no record":
                record.unlink()
            case _:
                record.write_text("")
        setup.forget_damaged(tmp_path)
        assert not (site / "thing-1.dist-info").exists()

    def test_this_environment_is_whole(self, setup: ModuleType) -> None:
        from importlib.metadata import distribution

        info = Path(str(distribution("numpy")._path))  # type: ignore[attr-defined]
        assert setup.is_whole(info)

    def test_an_environment_of_another_python_is_made_anew(
        self, setup: ModuleType, tmp_path: Path
    ) -> None:
        python = tmp_path / "bin" / "python"
        python.parent.mkdir()
        python.write_text("#!/bin/sh\necho 3 10\n")
        python.chmod(0o755)
        commands: list[Sequence[str]] = []
        setup.run = lambda command, name: commands.append(command) or 0
        setup.make_venv(tmp_path)
        assert commands == [[sys.executable, "-m", "venv", "--clear", str(tmp_path)]]

    def test_what_is_installed_is_not_installed_again(
        self, setup: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / setup.DONE).touch()
        setup.main([str(tmp_path)])
        assert capsys.readouterr().out == ""

    def test_an_older_stamp_goes_before_the_work_begins(
        self, setup: ModuleType, tmp_path: Path
    ) -> None:
        (tmp_path / setup.DONE).touch()
        os.utime(tmp_path / setup.DONE, (0, 0))

        def killed(*arguments: object) -> None:
            raise KeyboardInterrupt

        setup.make_venv = lambda venv: None
        setup.install = killed
        with pytest.raises(KeyboardInterrupt):
            setup.main([str(tmp_path)])
        assert not (tmp_path / setup.DONE).exists()


class TestInstallers:
    @pytest.fixture
    def with_uv(self, tmp_path: Path) -> Path:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "uv").touch()
        return tmp_path

    @pytest.mark.parametrize(
        ("settings", "code", "by"),
        [
            ("", 0, ["uv"]),
            ("", 2, ["uv", "pip"]),
            ("global.index-url='https://mirror/simple'\n", 0, ["pip"]),
            (":env:.no-index='1'\n", 0, ["pip"]),
            ("global.extra-index-url='file:///x'\n", 0, ["uv"]),
        ],
    )
    def test_uv_installs_unless_pip_knows_better(
        self, setup: ModuleType, with_uv: Path, settings: str, code: int, by: list[str]
    ) -> None:
        used: list[str] = []
        setup.output = lambda venv, *arguments: settings
        setup.run = lambda command, name, environment: used.append(name) or code
        setup.pip = lambda venv, *arguments: used.append("pip")
        setup.install_rest(with_uv, "-r", "requirements.lock")
        assert used == by


class TestWhatIsSaid:
    def test_silence_is_broken(
        self, setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(setup, "SAY_SECONDS", 0.5)
        quiet = "import time; print('Progress 3000000 of 9000000', flush=True); time.sleep(2.5)"
        assert setup.run([sys.executable, "-c", f"{quiet}; print('end')"], "pip") == 0
        lines = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r"  pip is at work, \d s, 3 of 9 MB", lines[0])
        assert lines[-1] == "  end"

    def test_the_exit_code_is_that_of_the_command(self, setup: ModuleType) -> None:
        assert setup.run([sys.executable, "-c", "raise SystemExit(3)"], "pip") == 3


class TestMakefile:
    def test_a_python_that_does_not_do_is_told_of(self) -> None:
        command = ["make", "-n", "setup", "PYTHON=", "VENV=/nonexistent"]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert "LUMOS needs Python 3.11, 3.12 or 3.13" in found.stdout

    def test_the_bounds_on_python_are_the_same_everywhere(self) -> None:
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert project["requires-python"] == ">=3.11,<3.14"
        assert "(3, 11) <= sys.version_info < (3, 14)" in (ROOT / "Makefile").read_text()
        assert "< (3, 14)" in (ROOT / "lumos_core" / "deployment" / "checks.py").read_text()


def test_waiting_for_another_setup(setup: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.touch()
    setup.LOCK = lock
    other = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); "
            "print('held', flush=True); time.sleep(1)",
            str(lock),
        ],
        stdout=subprocess.PIPE,
    )
    assert isinstance(other.stdout, io.BufferedReader)
    other.stdout.readline()
    began = time.monotonic()
    with setup.only_one():
        assert time.monotonic() - began > 0.5
    other.wait()
    other.stdout.close()
