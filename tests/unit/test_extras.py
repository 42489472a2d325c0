"""Packages that only some commands need: where they are not installed, the command says so before
it does any work."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumos_core import errors
from lumos_core.cli.app import app
from lumos_core.config import RunConfig
from lumos_core.deployment.local import simulate_with_flower
from lumos_core.errors import ConfigError, require_extra

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))[
    "project"
]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``without(module)``: as if it were not installed."""

    def hide(module: str) -> None:
        found = errors.importlib.util.find_spec
        monkeypatch.setattr(
            errors.importlib.util,
            "find_spec",
            lambda name, *rest: None if name == module else found(name, *rest),
        )

    return hide


def test_what_is_installed_is_no_error() -> None:
    require_extra("json", "none", "nothing")


def test_the_error_says_how_to_install_it(without: Callable[[str], None]) -> None:
    without("json")
    with pytest.raises(
        ConfigError, match=r"^the test needs .*'json'.*pip install 'lumos\[extra\]'$"
    ):
        require_extra("json", "extra", "the test")


def test_the_simulation_engine_needs_ray(without: Callable[[str], None], tmp_path: Path) -> None:
    without("ray")
    with pytest.raises(ConfigError, match=r"lumos\[simulation\]"):
        simulate_with_flower(RunConfig(), tmp_path, 2, tmp_path / "run", lambda event: None)
    assert not (tmp_path / "run").exists()
    assert "simulation" in PROJECT["optional-dependencies"]


@pytest.mark.parametrize("command", ["compare", "attack"])
def test_pictures_need_matplotlib(
    without: Callable[[str], None], tmp_path: Path, command: str
) -> None:
    without("matplotlib")
    done = CliRunner().invoke(app, [command, str(tmp_path), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, ConfigError)
    assert "lumos[plots]" in str(done.exception)
    assert not (tmp_path / "out").exists()
    assert "plots" in PROJECT["optional-dependencies"]


def test_an_export_to_onnx_needs_its_packages(
    without: Callable[[str], None], tmp_path: Path
) -> None:
    without("onnx")
    command = ["export", str(tmp_path), str(tmp_path / "out"), "--onnx", str(tmp_path / "c.tsv")]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, ConfigError)
    assert "lumos[onnx]" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_all_extras_are_installed_for_development() -> None:
    optional = PROJECT["optional-dependencies"]
    assert "lumos[simulation,quantization,plots,onnx]" in optional["dev"]
    assert {"simulation", "quantization", "plots", "onnx"} <= set(optional)
