import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app, main


def test_prepare_prints_what_it_made(tmp_path: Path) -> None:
    arguments = ["prepare", "sample", "--out", str(tmp_path / "out"), "--nodes", "2", "--seed", "5"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    for text in ("708", "1,482", "23,190", "2.210%", "354 users", "catalog fingerprint", "written"):
        assert text in result.output
    again = CliRunner().invoke(app, arguments)
    assert "already there, unchanged" in again.output


def test_errors_are_one_line_and_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "interactions.tsv"
    log.write_text("user_id\titem_id\ttimestamp\na\tb\t[/bold]\n")
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["lumos", "prepare", str(tmp_path), "--out", str(out)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert f"{log}: line 2: found '[/bold]': time is not a number" in error
    assert "Traceback" not in error
    assert not out.exists()


def test_warnings_and_odd_columns(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("who,what,when\n" + "".join(f"a,{n},{n}\n" for n in range(4)))
    options = "--user-column who --item-column what --time-column when --nodes 1 --k-core 0"
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["prepare", str(log), "--out", str(out), *options.split()])
    assert result.exit_code == 0, result.output
    assert "warning: no list of items" in result.stderr
    assert (out / "catalog.tsv").read_text() == "item_id\ttitle\n0\t0\n1\t1\n2\t2\n3\t3\n"
