"""The views of the benchmark know what it says they know, and never a test item."""

from collections.abc import Callable
from typing import Any

import pytest

from lumos_core.data import LeaveOneOut, Sequences
from lumos_core.views.view import UserViews


@pytest.fixture
def better_views(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("better_views")


@pytest.mark.parametrize(
    ("most", "futures"),
    [(None, [(10, 20), (20, 21), (21, 20)]), (1, [(10,), (20,), (21,)])],
)
def test_the_next_item_is_the_first_of_the_future(
    better_views: Any, most: int | None, futures: list[tuple[int, ...]]
) -> None:
    histories = Sequences.from_lists([[1, 2, 3], [4, 5, 6], [7, 8, 9]], ["a", "b", "c"])
    views = {u: UserViews((20, 21), (22,), (23,)) for u in range(3)}
    source = better_views.knowing(lambda _: lambda _: views, {"a": 10, "c": 21}, most)("a node")

    found = source(histories)

    assert [found[u].future for u in range(3)] == futures
    assert all(found[u][1:] == views[u][1:] for u in range(3))


def test_histories_one_item_longer_train_on_the_validation_item_and_not_on_the_test_item(
    better_views: Any, toy_users: Callable[..., Sequences]
) -> None:
    users = toy_users(12)
    longer = LeaveOneOut(better_views.with_one_more(users)).train()
    assert longer.user_ids == users.user_ids
    assert [longer[u].tolist() for u in range(12)] == [users[u][:-1].tolist() for u in range(12)]
