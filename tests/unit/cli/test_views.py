"""``lumos views``: what is said while views are written, and whose views there are."""

import io
import sqlite3
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.cli.views import catalog_stages
from lumos_core.data.prepare import prepare
from lumos_core.errors import ConfigError, DataError
from lumos_core.terminal.progress import Progress
from lumos_core.views.titles.resumable import WAITING, StageProgress

TFIDF, RANDOM = ("-c", "views=tfidf"), ("-c", "views=random")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve users, ten items, two nodes."""
    rows = [f"u{u}\ti{(u * 3 + t * (1 + u % 3)) % 10}\t{t}" for u in range(12) for t in range(6)]
    (tmp_path / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + "\n".join(rows))
    titles = [f"i{i}\tthing number {i} of {'paper' if i % 2 else 'tin'}" for i in range(10)]
    (tmp_path / "items.tsv").write_text("item_id\ttitle\n" + "\n".join(titles))
    prepare(tmp_path, tmp_path / "out", nodes=2, seed=0, k_core=0)
    return tmp_path / "out"


def lumos(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["views", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_build_into_a_file_says_how_far_it_is(data: Path) -> None:
    lines = lumos("build", data, *TFIDF).splitlines()
    assert lines[0].startswith("node-0: reading the data")
    assert any(line.startswith("node-1: 100 %") for line in lines)
    assert lines[-1].endswith("views written, 0 were there already")


def test_waiting_for_another_process_is_a_line_of_its_own() -> None:
    file = io.StringIO()
    with Progress(Console(file=file), live=False) as progress:
        show = catalog_stages(progress)
        show(StageProgress(WAITING, 0, 1))
        show(StageProgress(WAITING, 1, 1))
        show(StageProgress("titles", 0, 40))
    lines = file.getvalue().splitlines()
    assert lines[0] == "catalog: waiting for another process, which prepares this catalog"
    assert lines[1].startswith("catalog: 100 %, after 0 s, waited")
    assert lines[2].startswith("catalog: 0 %, 0 of 40 items")


def test_the_writers_of_a_store_can_be_told_apart(data: Path) -> None:
    assert "no views are stored" in lumos("list", data)
    assert not (data / "node-0" / "state").exists()
    lumos("build", data, *TFIDF)
    lumos("build", data / "node-1", *RANDOM)
    rows = [line.split() for line in lumos("list", data).splitlines()[1:]]
    assert [row[0] for row in rows] == ["node-0", "tfidf", "node-1", "tfidf", "random"]
    assert len({row[-1] for row in rows}) == 2 + 2  # two fingerprints, two headings
    assert rows[1][-1] == rows[3][-1] != rows[4][-1]


def test_one_writer_s_views_can_be_chosen(data: Path) -> None:
    lumos("build", data, *TFIDF)
    lumos("build", data, *RANDOM)
    user = (data / "node-0" / "interactions.tsv").read_text().splitlines()[1].split("\t")[0]
    fingerprints = {
        row.split()[0]: row.split()[-1] for row in lumos("list", data / "node-0").splitlines()[2:]
    }
    for name, options in (("tfidf", TFIDF), ("random", RANDOM)):
        chosen = lumos("show", data, "--user", user, "--writer", fingerprints[name])
        assert chosen == lumos("show", data, "--user", user, *options)
        assert f"written by {fingerprints[name]}  {name}" in chosen
    with pytest.raises(DataError, match=r"0 writers in .* known are: .*tfidf"):
        lumos("show", data, "--user", user, "--writer", "nonsense")
    with pytest.raises(ConfigError, match="--writer"):
        lumos("show", data, "--user", user, "--writer", fingerprints["tfidf"], *RANDOM)


def test_views_of_an_older_lumos_are_told_and_claimed_by_their_writer(data: Path) -> None:
    lumos("build", data, *TFIDF)
    with sqlite3.connect(data / "node-0" / "state" / "views.sqlite") as db:
        db.execute("ALTER TABLE views DROP COLUMN writer")
        db.execute("DROP TABLE writers")
    db.close()
    assert "not known (an older LUMOS)" in lumos("list", data / "node-0")
    assert "0 views written" in lumos("build", data / "node-0", *TFIDF)
    assert "not known" not in lumos("list", data / "node-0")


def test_a_shared_store_takes_over_what_nodes_have_and_writes_the_rest(data: Path) -> None:
    lumos("build", data / "node-1", *TFIDF)
    there = int(lumos("build", data / "node-1", *TFIDF).split("views written, ")[1].split()[0])
    said = lumos("build", data, "--shared", *TFIDF)
    assert f"{there} were there already" in said.splitlines()[-1]
    assert not said.endswith("\n0 views written")
    assert not (data / "node-0" / "state").exists()
    rows = lumos("list", data).splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["node-1", "tfidf", "shared", "tfidf"]
    assert "0 views written" in lumos("build", data, "--shared", *TFIDF).splitlines()[-1]


def history_grows(folder: Path) -> None:
    """The first user buys something."""
    table = folder / "interactions.tsv"
    user = table.read_text().splitlines()[1].split("\t")[0]
    with table.open("a") as file:
        file.write(f"{user}\ti1\t99\n")


def test_views_that_nobody_needs_are_counted_and_removed_only_if_asked(data: Path) -> None:
    assert "nothing to remove" in lumos("gc", data)
    lumos("build", data, *TFIDF)
    lumos("build", data, "--shared", *TFIDF)
    stores = [data / "node-0/state/views.sqlite", data / "views/views.sqlite"]
    before = [count(store) for store in stores]
    assert "nothing to remove" in lumos("gc", data)
    history_grows(data / "node-0")
    lumos("build", data / "node-0", *TFIDF)
    said = lumos("gc", data)
    assert f"node-0: 1 of {before[0] + 1} views are not needed" in said
    assert f"shared by all nodes: 1 of {before[1]} views are not needed" in said
    assert "--delete" in said
    assert [count(store) for store in stores] == [before[0] + 1, before[1]]
    assert "2 views removed" in lumos("gc", data, "--delete")
    assert [count(store) for store in stores] == [before[0], before[1] - 1]
    assert lumos("build", data / "node-0", *TFIDF).endswith(
        f"0 views written, {before[0]} were there already\n"
    )


def test_views_of_other_writers_go_only_if_asked(data: Path) -> None:
    node = data / "node-0"
    lumos("build", node, *TFIDF)
    lumos("build", node, *RANDOM)
    both = count(node / "state/views.sqlite")
    assert "nothing to remove" in lumos("gc", node)
    assert f"{both // 2} of {both}" in lumos("gc", node, "--other-writers", *RANDOM)
    lumos("gc", node, "--other-writers", "--delete", *RANDOM)
    [row] = lumos("list", node).splitlines()[2:]
    assert row.split()[:2] == ["random", str(both // 2)]
    with pytest.raises(ConfigError, match="--other-writers"):
        lumos("gc", node, *TFIDF)


def count(store: Path) -> int:
    with sqlite3.connect(store) as db:
        (found,) = db.execute("SELECT count(*) FROM views").fetchone()
    db.close()
    return int(found)
