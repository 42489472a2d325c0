"""``lumos prepare`` says which titles it used, and what to do where they are none."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.data.prepare import PreparedDataset, prepare

LOG = "user,item,time,note\n" + "".join(f"u,i{n},{n},x\n" for n in range(6))


def prepared(folder: Path, items: Sequence[str] = ()) -> PreparedDataset:
    (folder / "log.csv").write_text(LOG)
    if items:
        rows = "".join(f"i{n},{title}\n" for n, title in enumerate(items))
        (folder / "items.csv").write_text(f"item_id,name\n{rows}")
    return prepare(folder / "log.csv", folder / "out", nodes=1, k_core=0)


def test_titles_from_a_list(tmp_path: Path) -> None:
    done = prepared(tmp_path, [f"Title {n}" for n in range(6)])
    assert done.titles == f"titles from 'name' of {tmp_path / 'items.csv'}"
    assert done.warnings == ()


def test_without_a_list_the_option_is_named(tmp_path: Path) -> None:
    done = prepared(tmp_path)
    assert done.titles == "item ids stand in for titles"
    assert "name a list of both with --items" in done.warnings[0]


def test_a_list_that_has_no_title_for_these_items(tmp_path: Path) -> None:
    done = prepared(tmp_path, [""] * 5 + ["nan"])
    assert done.titles == "item ids stand in for titles"


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (["Unknown"] * 4 + ["A", "B"], True),
        (["Unknown"] * 3 + ["A", "B", "C"], False),
        (["Unknown"] * 6, True),
        ([""] * 6, False),
    ],
)
def test_a_title_that_most_items_have(tmp_path: Path, items: Sequence[str], told: bool) -> None:
    warnings = [w for w in prepared(tmp_path, items).warnings if "same title" in w]
    assert bool(warnings) == told
    if told:
        assert f"{items.count('Unknown')} of 6 items have the same title" in warnings[0]
        assert "'Unknown'" in warnings[0]
        assert "--title-column" in warnings[0]


def test_the_summary_says_it(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    arguments = ["prepare", str(tmp_path / "log.csv"), "--k-core", "0", "--nodes", "1"]
    arguments += ["--title-column", "note", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert f"titles from 'note' of {tmp_path / 'log.csv'}\n" in result.stdout
