"""What the system refuses is told as every other error is: one line, exit code 1, no traceback."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumos_core import errors
from lumos_core.cli import app as cli
from lumos_core.cli.options import check_out
from lumos_core.data import Catalog
from lumos_core.data.prepare import prepare
from lumos_core.data.sample import bundled_sample
from lumos_core.errors import ConfigError, DataError, reason_of
from lumos_core.learning.model import get_params, new_model
from lumos_core.recommend.model_files import KEPT_LATEST, ModelCard, save_model

LUMOS = (sys.executable, "-P", "-c", "from lumos_core.cli.app import main; main()")


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    """The exit code of ``lumos`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["lumos", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.fixture
def afile(tmp_path: Path) -> Path:
    path = tmp_path / "afile"
    path.write_text("not a folder")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "data"
    prepare(bundled_sample(), folder, nodes=3, seed=0)
    return folder


def test_deploy_init_below_a_file(monkeypatch, capsys, afile) -> None:
    assert ended(monkeypatch, "deploy", "init", afile / "x", "--host", "h", "--nodes", 1) == 1
    assert capsys.readouterr().err == f"error: {afile}: File exists\n"


def test_run_into_a_file(monkeypatch, capsys, afile, data) -> None:
    options = ("--data", data, "--run-dir", afile, "--method", "fedavg", "--no-baselines")
    assert ended(monkeypatch, "run", *options) == 1
    assert capsys.readouterr().err.startswith(f"error: {afile}")


def test_recommending_and_exporting_below_a_file(
    monkeypatch, capsys, afile, data, tiny, tmp_path
) -> None:
    node, state = data / "node-0", tmp_path / "state"
    catalog = Catalog.read(node / "catalog.tsv")
    card = ModelCard.of(tiny(), len(catalog), catalog.fingerprint, 4, final=False)
    model = new_model(tiny(), len(catalog))
    save_model(state / KEPT_LATEST, get_params(model), card)
    options = ("--data", node, "--state", state, "--all", "--out", afile / "r.parquet")
    assert ended(monkeypatch, "recommend", *options) == 1
    assert capsys.readouterr().err.startswith(f"error: {afile}")
    assert ended(monkeypatch, "export", state, afile / "x") == 1
    assert capsys.readouterr().err.startswith(f"error: {afile}")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a[b]/c"), "/a[b]/c: Permission"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_whatever_the_system_says(monkeypatch, capsys, error, message) -> None:
    def refused() -> None:
        raise error

    monkeypatch.setattr(cli, "app", refused)
    assert ended(monkeypatch) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_reader_that_has_gone_is_no_error() -> None:
    with subprocess.Popen(
        [*LUMOS, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_certificate_lasts_no_longer_than_its_authority(tmp_path) -> None:
    options = ["--host", "h", "--nodes", "1", "--days"]
    result = CliRunner().invoke(cli.app, ["deploy", "init", str(tmp_path / "d"), *options, "3651"])
    assert result.exit_code == 2
    assert not (tmp_path / "d").exists()
    result = CliRunner().invoke(cli.app, ["deploy", "init", str(tmp_path / "d"), *options, "3650"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.tsv"), "No space left on device"),
        (OSError("No space left on device (os error 28)"), "No space left on device (os error 28)"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_every_refusal_has_a_reason(error: OSError, reason: str) -> None:
    assert reason_of(error) == reason


def test_a_disk_that_a_library_finds_full_is_named(monkeypatch, data, tmp_path) -> None:
    def full(*_: object, **__: object) -> None:  # as polars says it: without an errno
        raise OSError("No space left on device (os error 28)")

    monkeypatch.setattr("polars.DataFrame.write_csv", full)
    with pytest.raises(DataError, match=r"out: cannot write .* \(No space left on device \(os"):
        prepare(bundled_sample(), tmp_path / "out", nodes=1)
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(ConfigError, match=r"written to \(No space left on device \(os"):
        check_out(tmp_path / "out")


def test_nothing_is_told_without_a_reason() -> None:
    """``strerror`` alone may be None: only :func:`reason_of` asks for it."""
    root = Path(errors.__file__).parents[1]
    sources = [p for name in ("lumos_core", "client_app", "server_app")
               for p in (root / name).rglob("*.py")]  # fmt: skip
    asking = [p.name for p in sources if "error.strerror" in p.read_text()]
    assert asking == ["errors.py"]
