"""A node's data without some users: nothing else changes, whatever the format."""

import gzip
import json
import os
import stat
from pathlib import Path

import polars as pl
import pytest

from lumos_core.data import removed_users
from lumos_core.data.interactions import read_interactions
from lumos_core.data.node_folder import read_node
from lumos_core.data.removed_users import leftovers, removal_of
from lumos_core.errors import DataError

HEAD = ("user_id", "item_id", "timestamp", "note")
ROWS = [
    ("ann", "a", 1, "x"), ("bob", "b", 1, "y, z"), ("ann", "b", 2, ""), ("bob", "c", 2, "w"),
    ("cid", "a", 1, "v"), ("bob", "a", 3, "u"), ("ann", "c", 3, "t"),
]  # fmt: skip
STAYING = [row for row in ROWS if row[0] != "bob"]


def tsv(rows) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in [HEAD, *rows])


def csv(rows) -> str:
    """Every note in quotes, over two lines."""
    text = "".join(f'{u},{i},{t},"{n}\nmore ""of"" it"\n' for u, i, t, n in rows)
    return ",".join(HEAD) + "\n" + text


def jsonl(rows) -> str:
    return "".join(json.dumps(dict(zip(HEAD, row, strict=True))) + "\n" for row in rows)


TEXTS = {"tsv": tsv, "csv": csv, "jsonl": jsonl}


def node(tmp_path: Path, name: str = "interactions.tsv", content: bytes | None = None) -> Path:
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "catalog.tsv").write_text("item_id\ttitle\na\tA\nb\tB\nc\tC\n")
    path = folder / name
    if name.endswith(".parquet"):
        pl.DataFrame(ROWS, schema=list(HEAD), orient="row").write_parquet(path)
    else:
        path.write_bytes(tsv(ROWS).encode() if content is None else content)
    return folder


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("packed", [False, True])
def test_all_other_lines_stay_as_they_are(tmp_path: Path, kind: str, packed: bool) -> None:
    pack = gzip.compress if packed else bytes
    name = f"interactions.{kind}" + (".gz" if packed else "")
    folder = node(tmp_path, name, pack(TEXTS[kind](ROWS).encode()))
    removal = removal_of(folder, ["bob"])
    assert (removal.found, removal.interactions, len(removal.staying)) == ({"bob"}, 3, 1)
    removal.write()
    found = (folder / name).read_bytes()
    assert (gzip.decompress(found) if packed else found) == TEXTS[kind](STAYING).encode()
    assert sorted(p.name for p in folder.iterdir()) == ["catalog.tsv", name]


def test_parquet_keeps_its_columns(tmp_path: Path) -> None:
    folder = node(tmp_path, "interactions.parquet")
    removal_of(folder, ["bob"]).write()
    left = pl.read_parquet(folder / "interactions.parquet")
    assert (tuple(left.columns), left.rows()) == (HEAD, STAYING)


def test_users_are_named_as_lumos_reads_them(tmp_path: Path) -> None:
    """Blank lines, spaces around ids, and whole numbers that a program made floats."""
    text = "user_id\titem_id\ttimestamp\n1.0\ta\t1\n\n 2.0 \tb\t1\n" + "1.0\tb\t2\n1.0\tc\t3\n"
    folder = node(tmp_path, content=text.encode())
    removal_of(folder, ["2"]).write()
    assert read_node(folder)[1].user_ids == ("1",)
    assert "2.0" not in (folder / "interactions.tsv").read_text()


def test_a_user_with_too_short_a_history_for_training_is_removed_too(tmp_path: Path) -> None:
    folder = node(tmp_path)
    assert read_node(folder)[1].left_out == 1
    removal_of(folder, ["cid"]).write()
    assert read_node(folder)[1].left_out == 0


def test_mode_and_symbolic_link_stay(tmp_path: Path) -> None:
    folder = node(tmp_path)
    real = tmp_path / "elsewhere" / "log.tsv"
    real.parent.mkdir()
    (folder / "interactions.tsv").rename(real)
    (folder / "interactions.tsv").symlink_to(real)
    real.chmod(0o640)
    removal_of(folder, ["bob"]).write()
    assert (folder / "interactions.tsv").is_symlink()
    assert real.read_text() == tsv(STAYING)
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_the_counts_beside_it_are_renewed(tmp_path: Path) -> None:
    folder = node(tmp_path)
    facts = {"node": 0, "users": 3, "interactions": 7, "domain": "films", "catalog-fingerprint": ""}
    (folder / "node.json").write_text(json.dumps(facts))
    removal_of(folder, ["bob"]).write()
    found = json.loads((folder / "node.json").read_text())
    assert {key: found[key] for key in facts} == {**facts, "users": 2, "interactions": 4}


@pytest.mark.parametrize("users", [["ann", "bob"], ["ann", "bob", "cid"]])
def test_somebody_must_be_left_to_train_with(tmp_path: Path, users: list[str]) -> None:
    folder = node(tmp_path)
    with pytest.raises(DataError, match="no user with 3 or more interactions is left"):
        removal_of(folder, users)
    assert (folder / "interactions.tsv").read_text() == tsv(ROWS)


def test_who_is_not_there_is_not_found_and_nothing_is_written(tmp_path: Path) -> None:
    folder = node(tmp_path)
    before = (folder / "interactions.tsv").stat()
    removal = removal_of(folder, ["dan"])
    assert (removal.found, removal.interactions) == (frozenset(), 0)
    removal.write()
    assert (folder / "interactions.tsv").stat() == before


@pytest.mark.parametrize("text", [tsv(ROWS), "no table\n"])
def test_a_file_that_would_be_read_as_other_rows_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    folder = node(tmp_path)
    removal = removal_of(folder, ["bob"])
    monkeypatch.setattr(removed_users, "without_records", lambda table, gone: text.encode())
    with pytest.raises(DataError, match="left as it is"):
        removal.write()
    assert (folder / "interactions.tsv").read_text() == tsv(ROWS)
    assert leftovers(folder / "interactions.tsv") == []


def test_a_file_that_changes_after_it_was_read_is_not_overwritten(tmp_path: Path) -> None:
    folder = node(tmp_path)
    removal = removal_of(folder, ["bob"])
    more = tsv([*ROWS, ("eve", "a", 1, "")])
    (folder / "interactions.tsv").write_text(more)
    with pytest.raises(DataError, match="the file has changed"):
        removal.write()
    assert (folder / "interactions.tsv").read_text() == more


def test_a_disk_that_refuses_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    folder = node(tmp_path)
    removal = removal_of(folder, ["bob"])
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match=r"interactions\.tsv: cannot be written: No space left"):
        removal.write()
    assert (folder / "interactions.tsv").read_text() == tsv(ROWS)
    assert leftovers(folder / "interactions.tsv") == []


def test_what_killed_processes_left_is_found(tmp_path: Path) -> None:
    path = node(tmp_path) / "interactions.tsv"
    (path.parent / ".interactions.tsv.ab12").write_text("bob")
    (path.parent / ".interactions.tsv.cd34").mkdir()
    (path.parent / ".interactions.tsv.lock").touch()
    names = [left.name for left in leftovers(path)]
    assert names == [".interactions.tsv.ab12", ".interactions.tsv.cd34"]


def test_rows_of_the_others_are_read_as_before(tmp_path: Path) -> None:
    folder = node(tmp_path, "interactions.csv", csv(ROWS).encode())
    before = read_interactions(folder / "interactions.csv").frame
    removal_of(folder, ["bob"]).write()
    after = read_interactions(folder / "interactions.csv").frame
    assert after.equals(before.filter(pl.col("user_id") != "bob"))
