"""A node's views: counted for its owner, without touching anything."""

from pathlib import Path

import pytest

from lumos_core.cli.run import view_line
from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut
from lumos_core.views.source import STORE, ViewCount, count_views, view_source

CATALOG = Catalog(tuple("abcdefgh"), tuple(f"title {n}" for n in range(8)))
# the training histories of u and v are the same: 1, 2
USERS = Sequences.from_lists([[1, 2, 3, 4], [1, 2, 5, 6], [3, 4, 5, 6]], ["u", "v", "w"])


@pytest.mark.parametrize("kind", ["tfidf", "random"])
def test_views_are_counted_by_distinct_history_and_writer(tmp_path: Path, kind: str) -> None:
    config = RunConfig().replace(views=kind)
    node = NodeConfig(data=str(tmp_path), state=str(tmp_path / "state"))
    assert count_views(config, node, CATALOG, USERS) == ViewCount(0, 2)
    assert not (tmp_path / "state").exists()
    view_source(config, node, CATALOG)(LeaveOneOut(USERS).train().subset([0]))
    assert (tmp_path / "state" / STORE).exists()
    assert count_views(config, node, CATALOG, USERS) == ViewCount(1, 2)
    view_source(config, node, CATALOG)(LeaveOneOut(USERS).train())
    assert count_views(config, node, CATALOG, USERS) == ViewCount(2, 2)
    assert count_views(config.replace(view_seed=1), node, CATALOG, USERS) == ViewCount(0, 2)


def test_a_run_says_what_it_did_about_views() -> None:
    assert view_line(ViewCount(0, 9), ViewCount(9, 9)) == "9 generated, 0 reused"
    assert view_line(ViewCount(9, 9), ViewCount(9, 9)) == "0 generated, 9 reused"
    assert view_line(ViewCount(2, 9), ViewCount(5, 9)) == "3 generated, 2 reused, 4 still missing"
