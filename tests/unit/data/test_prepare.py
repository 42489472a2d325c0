import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lumos_core.data import prepared_folder
from lumos_core.data.catalog import Catalog
from lumos_core.data.catalog_versions import Lineage
from lumos_core.data.layout import CATALOG_VERSIONS
from lumos_core.data.node_folder import read_node
from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import load_prepared, node_folders
from lumos_core.data.reading.columns import Columns
from lumos_core.data.sample import bundled_sample
from lumos_core.errors import DataError

ITEMS = "item_id\ttitle\n03\tThree\n1\tOne\n2\t\n4\tUnused\n"
USERS = ("a", "b", "c", "d")
ROWS = [f"{u}\t{i}\t{t}" for u in USERS for t, i in enumerate(["1", "2", "03"])]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "items.tsv").write_text(ITEMS)
    write_log(folder, [*ROWS, "a\t1\t0", "short\t1\t1", "short\t2\t2"])
    return folder


def write_log(folder: Path, rows: list[str]) -> None:
    text = "\n".join(["user_id\titem_id\ttimestamp", *rows]) + "\n"
    (folder / "interactions.tsv").write_text(text)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_small_data_set(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    dataset = prepare(source, out, nodes=2, seed=3, k_core=3)
    assert (dataset.users, dataset.items, dataset.interactions) == (4, 3, 12)
    assert dataset.lengths == (3, 3.0, 3.0, 3)
    assert (dataset.node_users, dataset.node_interactions) == ((2, 2), (6, 6))
    assert dataset.density == 1.0
    dropped = dataset.dropped
    assert (dropped.duplicates, dropped.short_users, dropped.core_users) == (1, 1, 0)
    assert (dropped.interactions, dropped.items, dropped.unknown_items) == (2, 1, 0)
    assert dataset.warnings == (
        f"1 of 3 items have no title in {source}/items.tsv; their ids stand in",
    )
    assert (out / "catalog.tsv").read_text() == "item_id\ttitle\n03\tThree\n1\tOne\n2\t2\n"
    facts = json.loads((out / "dataset.json").read_text())
    assert facts["catalog-fingerprint"] == dataset.fingerprint
    assert {k: facts[k] for k in ("name", "seed", "nodes", "users", "k-core")} == {
        "name": "shop",
        "seed": 3,
        "nodes": 2,
        "users": 4,
        "k-core": 3,
    }
    catalog, parts = load_prepared(out)
    assert catalog.fingerprint == dataset.fingerprint
    assert sorted(user for part in parts for user in part.user_ids) == list(USERS)
    assert all(items.tolist() == [2, 3, 1] for part in parts for items in part)


def test_nodes_get_the_versions_of_the_runs_catalog(source: Path, tmp_path: Path) -> None:
    """So a node that is prepared from a grown catalog knows the versions before it."""
    old = Catalog(("03", "1"), ("Three", "Onne"))
    new = Catalog(("03", "1", "2"), ("Three", "One", "Two"))
    chain, _ = Lineage.of(old).extended(new)
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    new.write(run / "catalog.tsv")

    def make() -> bool:
        items = run / "catalog.tsv"
        return prepare(source, out, nodes=2, k_core=0, items=items).reused

    make()
    assert not list(out.rglob(CATALOG_VERSIONS)), "a catalog of one version has no chain"
    chain.write(run / "catalog.tsv")
    assert make(), "the tables are the same"
    for folder in (out, out / "node-0", out / "node-1"):
        found = Lineage.of(Catalog.read(folder / "catalog.tsv"))
        assert found.versions == chain.versions
        assert found.earlier(old.fingerprint) is not None
    (run / CATALOG_VERSIONS).write_text("{}")
    with pytest.raises(DataError, match=CATALOG_VERSIONS):
        make()


def test_every_node_has_the_catalog_and_its_own_users_only(tmp_path: Path) -> None:
    prepare(bundled_sample(), tmp_path / "out", nodes=3)
    folders = node_folders(tmp_path / "out")
    assert [folder.name for folder in folders] == ["node-0", "node-1", "node-2"]
    users: set[str] = set()
    for folder in folders:
        assert sorted(contents(folder)) == ["catalog.tsv", "interactions.tsv", "node.json"]
        _, sequences = read_node(folder)
        assert users.isdisjoint(sequences.user_ids)
        users.update(sequences.user_ids)
        facts = json.loads((folder / "node.json").read_text())
        assert facts["users"] == len(sequences)
        assert facts["interactions"] == len(sequences.items)
    assert len(users) == 708


def test_options(source: Path, tmp_path: Path) -> None:
    everything = prepare(
        source, tmp_path / "a", nodes=1, k_core=0, dedup="none", keep_all_items=True, name="x"
    )
    assert (everything.name, everything.items, everything.interactions) == ("x", 4, 13)
    assert everything.dropped.items == 0
    write_log(source, [*ROWS, *(f"{u}\tnew\t9" for u in USERS)])
    with pytest.raises(DataError, match=r"line 14: unknown item 'new' \(rows like it: 4\)"):
        prepare(source, tmp_path / "b")
    dropped = prepare(source, tmp_path / "b", k_core=0, unknown_items="drop")
    assert (dropped.items, dropped.interactions, dropped.dropped.unknown_items) == (3, 12, 4)
    kept = prepare(source, tmp_path / "c", k_core=0, unknown_items="keep")
    catalog, _ = load_prepared(tmp_path / "c")
    assert (kept.items, kept.interactions) == (4, 16)
    assert catalog.item_ids == ("03", "1", "2", "new")
    assert catalog.titles[3] == "new"


def test_seed_decides_over_the_nodes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare(bundled_sample(), tmp_path / name, seed=seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a["catalog.tsv"] == c["catalog.tsv"]
    assert a["node-0/interactions.tsv"] != c["node-0/interactions.tsv"]


def test_same_again_is_reused_with_the_nodes_own_state(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not prepare(source, out, nodes=2, k_core=0).reused
    state = out / "node-0" / "state"
    state.mkdir()
    (state / "views.sqlite").write_text("kept")
    before = (out / "catalog.tsv").stat().st_mtime_ns
    again = prepare(source, out, nodes=2, k_core=0)
    assert again.reused
    assert again == replace(
        prepare(source, tmp_path / "b", nodes=2, k_core=0), folder=out, reused=True
    )
    assert (state / "views.sqlite").read_text() == "kept"
    assert (out / "catalog.tsv").stat().st_mtime_ns == before


def test_other_content_needs_force(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(source, out, nodes=3, k_core=0)
    before = contents(out)
    with pytest.raises(DataError, match=r"holds other prepared data; .* --force"):
        prepare(source, out, nodes=2, k_core=0)
    assert contents(out) == before
    assert not prepare(source, out, nodes=2, k_core=0, force=True).reused
    assert len(load_prepared(out)[1]) == 2
    assert not (out / "node-2").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "shop"]


def test_folders_of_others_are_never_touched(source: Path, tmp_path: Path) -> None:
    before = contents(source)
    with pytest.raises(DataError, match="not empty and no prepared data"):
        prepare(source, source, k_core=0, force=True)
    with pytest.raises(DataError, match="found a file, expected a new folder"):
        prepare(source, source / "items.tsv", k_core=0, force=True)
    assert contents(source) == before


@pytest.mark.parametrize("force", [False, True])
def test_a_failure_on_the_way_leaves_nothing_new(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    out = tmp_path / "out"
    if force:
        prepare(source, out, nodes=3, k_core=0)
    before = contents(tmp_path)

    def full_disk(folder: Path, *_: object) -> None:
        (folder / "half").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared_folder, "_write_node", full_disk)
    with pytest.raises(DataError, match=r"cannot write .*No space left on device"):
        prepare(source, out, nodes=2, k_core=0, force=force)
    assert contents(tmp_path) == before
    assert out.exists() == force


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (ROWS[:2], {}, r"none of 2 interactions is left by k-core = 5 and at least 3"),
        (ROWS, {"k_core": 0, "nodes": 5}, "4 users cannot fill 5 nodes"),
        (ROWS, {"k_core": -1}, "k-core = -1"),
        (ROWS, {"nodes": 0}, "nodes = 0"),
        ([*ROWS, "a\t1\tnoon"], {}, "line 14: found 'noon'"),
    ],
)
def test_errors_leave_nothing(
    source: Path, tmp_path: Path, rows: list[str], arguments: dict[str, int], message: str
) -> None:
    write_log(source, rows)
    with pytest.raises(DataError, match=message):
        prepare(source, tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_equal_times_keep_the_order_of_the_file(source: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    histories = {u: rng.choice(["1", "2", "03"], size=8).tolist() for u in USERS}
    write_log(source, [f"{u}\t{histories[u][n]}\t7" for n in range(8) for u in USERS])
    prepare(source, tmp_path / "out", nodes=2, k_core=0, dedup="none")
    catalog, parts = load_prepared(tmp_path / "out")
    for part in parts:
        for user, items in zip(part.user_ids, part, strict=True):
            assert [catalog.item_id(int(i)) for i in items] == histories[user]


def test_folders_that_are_not_prepared(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no dataset\.json"):
        node_folders(source)
    with pytest.raises(DataError, match="no such folder"):
        node_folders(tmp_path / "nope")
    for text, message in (("{", "not JSON"), ("[]", "found list"), ('{"nodes": "3"}', "'nodes'")):
        (source / "dataset.json").write_text(text)
        with pytest.raises(DataError, match=message):
            node_folders(source)


def test_nodes_must_share_the_catalog(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(source, out, nodes=2, k_core=0)
    path = out / "node-1" / "catalog.tsv"
    path.write_text(path.read_text().replace("Three", "Drei"))
    with pytest.raises(DataError, match=r"node-1/catalog\.tsv: differs"):
        load_prepared(out)


def test_short_histories_are_kept_if_asked_for(source: Path, tmp_path: Path) -> None:
    write_log(source, [*ROWS, "one\t1\t9", "two\t1\t9", "two\t2\t10"])
    usual = prepare(source, tmp_path / "usual", nodes=1, k_core=0)
    assert (usual.users, usual.dropped.short_users) == (4, 2)
    asked = prepare(source, tmp_path / "asked", nodes=1, k_core=4, min_interactions=1)
    assert (asked.users, asked.lengths[0], asked.dropped.short_users) == (6, 1, 0)
    two = prepare(source, tmp_path / "two", nodes=1, k_core=0, min_interactions=2)
    assert (two.users, two.dropped.short_users) == (5, 1)
    assert "1 of users with fewer than 2" in two.rows.sentence()
    _, (sequences,) = load_prepared(tmp_path / "asked")
    assert (len(sequences), sequences.left_out) == (4, 2), "leave-one-out needs three"
    assert len(load_prepared(tmp_path / "asked", min_history=1)[1][0]) == 6


def test_no_users_without_interactions(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="min-interactions = 0, expected at least 1"):
        prepare(source, tmp_path / "out", min_interactions=0)


def test_repeats_are_dropped_and_counted_where_rows_are_in_order(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"u {item}\n" for item in "aabacc"))
    columns = Columns("1", "2", header=False, file_order=True)
    done = prepare(log, tmp_path / "out", nodes=1, k_core=0, columns=columns)
    assert done.rows.sentence() == "6 rows = 4 kept + 2 dropped (2 duplicates)"
    assert (
        prepare(
            log, tmp_path / "all", nodes=1, k_core=0, columns=columns, dedup="none"
        ).interactions
        == 6
    )
