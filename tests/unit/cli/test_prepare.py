import gzip
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app, main
from lumos_core.data import Catalog
from lumos_core.data.layout import PREPARE_NODE
from lumos_core.data.node_folder import read_node


def test_prepare_prints_what_it_made(tmp_path: Path) -> None:
    arguments = ["prepare", "sample", "--out", str(tmp_path / "out"), "--nodes", "2", "--seed", "5"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    for text in ("708", "1,482", "23,190", "2.210%", "354 users", "catalog fingerprint", "written"):
        assert text in result.output
    again = CliRunner().invoke(app, arguments)
    assert "already there, unchanged" in again.output


def test_an_owner_of_data_prepares_a_node_with_the_catalog_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command that documentation and messages give, from part of the items and one more."""
    catalog = Catalog(tuple("cab"), ("C", "A", "B"))  # in an order of its own
    catalog.write(tmp_path / "catalog.tsv")
    rows = [f"u{n % 2}\t{'ab'[n % 3 % 2]}\t{n}\n" for n in range(12)]
    log = "user_id\titem_id\ttimestamp\n" + "".join(rows) + "u0\tz\t99\n"
    (tmp_path / "log.tsv").write_text(log)
    monkeypatch.chdir(tmp_path)
    command = shlex.split(PREPARE_NODE.replace("LOG", "log.tsv"))[1:]
    refused = CliRunner().invoke(app, [*command, "--unknown-items", "error"])
    assert "unknown item 'z'" in str(refused.exception)
    assert "--unknown-items drop" in str(refused.exception)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "1 interactions with 1 items that catalog.tsv lacks, such as 'z'" in result.stderr
    own, users = read_node(tmp_path / "mine" / "node-0")
    assert own.fingerprint == catalog.fingerprint
    assert len(users) == 2


def test_the_command_is_in_the_manual() -> None:
    manual = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert manual.count(PREPARE_NODE) == 2  # in the procedure, and among symptoms


GOOD_LOG = "".join(f"u{n % 4}\t0{n % 3}\t{n}\n" for n in range(24))
LOG = ("user_id\titem_id\ttimestamp\n" + GOOD_LOG).encode()
ITEMS = b"item_id\ttitle\n00\tA\n01\tB\n02\tC\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"interactions.tsv": LOG.replace(b"timestamp", b"when")}, "line 1: missing column"),
        ({"items.tsv": ITEMS + b"01\tD\n"}, "items.tsv: line 5: duplicate item id '01'"),
        ({"interactions.tsv": LOG + b"u1\t1\t9\n"}, "line 26: unknown item '1'"),
        ({"interactions.tsv": LOG + b"u1\t01\t[/bold]\n"}, "line 26: found '[/bold]': time is"),
        ({"interactions.tsv": b""}, "interactions.tsv: the file is empty"),
        ({"items.tsv": ITEMS + b"03\tCaf\xe9\n"}, "items.tsv: line 5: byte 0xe9 at byte position"),
        ({"interactions.tsv": gzip.compress(LOG)[:-20]}, "truncated gzip"),
        ({"interactions.tsv": LOG[: LOG.index(b"u2")]}, "none of 2 interactions is left"),
        ({"interactions.tsv": None}, "expected interactions.(tsv"),
    ],
)
def test_malformed_input_ends_with_its_place_exit_1_and_nothing_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, bytes | None],
    message: str,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, content in {"interactions.tsv": LOG, "items.tsv": ITEMS, **files}.items():
        if content is not None:
            (source / name).write_bytes(content)
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["lumos", "prepare", str(source), "--out", str(out)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {source}")
    assert message in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_input_of_these_errors_is_good_otherwise(tmp_path: Path) -> None:
    (tmp_path / "interactions.tsv").write_bytes(LOG)
    (tmp_path / "items.tsv").write_bytes(ITEMS)
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["prepare", str(tmp_path), "--out", str(out)])
    assert result.exit_code == 0, result.output


def test_warnings_and_odd_columns(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("who,what,when\n" + "".join(f"a,{n},{n}\n" for n in range(4)))
    options = "--user-column who --item-column what --time-column when --nodes 1 --k-core 0"
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["prepare", str(log), "--out", str(out), *options.split()])
    assert result.exit_code == 0, result.output
    assert "warning: no list of items" in result.stderr
    assert (out / "catalog.tsv").read_text() == "item_id\ttitle\n0\t0\n1\t1\n2\t2\n3\t3\n"


def test_a_folder_as_it_was_published_is_for_prepare(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user,item,time\nu,i,1\n")
    for command in (["compare", str(tmp_path), "--out", str(tmp_path / "out")],
                    ["run", "--data", str(tmp_path)]):  # fmt: skip
        result = CliRunner().invoke(app, command)
        assert "no dataset.json" in str(result.exception)
        assert "lumos prepare SOURCE --out FOLDER" in str(result.exception)


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user,item,time\nu,i,1\n")
    arguments = ["prepare", str(log), "--out", str(tmp_path / "out"), "--format", "csv"]
    message = str(CliRunner().invoke(app, arguments).exception)
    assert "--format csv: no such format, expected one of auto, mind, recbole, table" in message


def test_nothing_left_names_the_columns(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("session_id,item_id,time\n" + "".join(f"s{n},i,{n}\n" for n in range(9)))
    arguments = ["prepare", str(log), "--out", str(tmp_path / "out")]
    message = str(CliRunner().invoke(app, arguments).exception)
    assert "(9 users from 'session_id', 1 items from 'item_id'; --user-column and" in message
