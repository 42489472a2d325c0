"""What the tests of data from the field share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from lumos_core.cli.app import app

CASES = Path(__file__).parents[2] / "data" / "cases"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def prepare(out: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``lumos prepare CASE … --out OUT --nodes 1 --k-core 0`` in the folder of the cases."""
    monkeypatch.chdir(CASES)

    def run(*arguments: str) -> Result:
        rest = ["--out", str(out), "--nodes", "1", "--k-core", "0"]
        return CliRunner().invoke(app, ["prepare", *arguments, *rest])

    return run
