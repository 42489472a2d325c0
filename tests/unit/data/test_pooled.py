"""Users whose interactions lie on several nodes are one user where data are pooled."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.config import RunConfig
from lumos_core.data.pooled import Pooled, pool
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.data.sequences import Sequences
from lumos_core.experiments.comparison import compare
from lumos_core.experiments.comparison.packed_ranks import unpack_ranks
from lumos_core.experiments.jobs import run_job

CATALOG = "item_id\ttitle\n" + "".join(f"{n}\tThing {n}\n" for n in range(1, 10))
ALONE = ["z 1 1", "z 2 2", "z 3 3"], ["b 4 1", "b 5 2", "b 6 3"]


def prepared(tmp_path: Path, *nodes: list[str]) -> Path:
    """A prepared folder with these rows, "user item time"."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "catalog.tsv").write_text(CATALOG)
    (tmp_path / "dataset.json").write_text(json.dumps({"nodes": len(nodes)}))
    for n, rows in enumerate(nodes):
        own = tmp_path / f"node-{n}"
        own.mkdir()
        (own / "catalog.tsv").write_text(CATALOG)
        log = "\n".join(["user_id item_id timestamp", *rows, ""]).replace(" ", "\t")
        (own / "interactions.tsv").write_text(log)
    return tmp_path


def pooled(folder: Path) -> Pooled:
    catalog, nodes = load_prepared(folder)
    return pool(folder, catalog, nodes)


def histories(users: Sequences) -> dict[str, list[int]]:
    return {user: items.tolist() for user, items in zip(users.user_ids, users, strict=True)}


def test_without_common_users_it_is_the_nodes_one_after_the_other(tmp_path: Path) -> None:
    folder = prepared(tmp_path, *ALONE)
    found, expected = pooled(folder), Sequences.concat(load_prepared(folder)[1])
    assert (found.merged, found.users.user_ids) == (0, ("z", "b"))
    np.testing.assert_array_equal(found.users.items, expected.items)


def test_histories_are_merged_in_the_order_of_time(tmp_path: Path) -> None:
    first = [*ALONE[0], "a 1 10", "a 2 30", "a 3 50"]
    second = [*ALONE[1], "a 7 20.5", "a 8 40", "a 9 60"]  # times with and without a fraction
    found = pooled(prepared(tmp_path, first, second))
    assert found.merged == 1
    assert list(histories(found.users).items()) == [
        ("a", [1, 7, 2, 8, 3, 9]), ("z", [1, 2, 3]), ("b", [4, 5, 6]),
    ]  # fmt: skip


def test_a_copy_on_another_node_counts_once_and_a_repetition_stays(tmp_path: Path) -> None:
    rows = ["a 1 1", "a 1 1", "a 2 2", "a 3 3"]
    found = pooled(prepared(tmp_path, rows, rows))
    assert (histories(found.users), found.merged) == ({"a": [1, 1, 2, 3]}, 1)


def test_short_parts_of_a_long_history_and_users_who_stay_short(tmp_path: Path) -> None:
    first = [*ALONE[0], "a 1 1", "a 3 3", "s 1 1"]
    second = [*ALONE[1], "a 2 2", "s 2 2"]
    found = pooled(prepared(tmp_path, first, second))
    assert histories(found.users) == {"a": [1, 2, 3], "z": [1, 2, 3], "b": [4, 5, 6]}
    assert (found.merged, found.users.left_out) == (2, 1)


@pytest.mark.parametrize("common", [False, True])
def test_centralised_training_counts_a_user_once_and_says_so(tmp_path: Path, common: bool) -> None:
    second = [*ALONE[1], *(["z 7 7", "z 8 8", "z 9 9"] if common else [])]
    data = prepared(tmp_path / "data", ALONE[0], second)
    out = tmp_path / "out"
    small = ["-c", "dim=8", "-c", "heads=1", "-c", "layers=1", "--epochs", "1"]
    arguments = ["train-central", str(data), "--out", str(out), *small]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "data: 2 users, 9 items" in result.output
    warning = "warning: users with interactions on more than one node: 1;"
    assert (warning in result.output) == common


@pytest.mark.parametrize("variant", ["popularity", "centralised", "local", "fedavg"])
def test_a_comparison_pools_so_too(tmp_path: Path, variant: str) -> None:
    data = prepared(tmp_path / "data", ALONE[0], [*ALONE[1], "z 7 7", "z 8 8", "z 9 9"])
    config = RunConfig(local_epochs=1, dim=8, heads=1, layers=1)
    (job,) = compare.plan_comparison(data, [variant], [0], config)
    result = run_job(job)
    assert result.get(compare.MERGED) == (0 if variant == "local" else 1)
    assert result["users"] == 3  # of the federation, on whose nodes the user counts twice
    ranked = [len(unpack_ranks(packed)) for packed in result.get("ranks", {}).values()]
    assert ranked == ([] if variant == "local" else [2, 2])  # where it is ranked, it is one user


def test_the_comparison_warns(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ALONE[0], [*ALONE[1], "z 7 7", "z 8 8", "z 9 9"])
    arguments = ["compare", str(data), "--out", str(tmp_path / "out"), "--variants", "popularity"]
    result = CliRunner().invoke(app, [*arguments, "--seeds", "0"], catch_exceptions=False)
    assert "warning: users with interactions on more than one node: 1;" in result.output
