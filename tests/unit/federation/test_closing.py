"""How many are asked, and how many replies close a round."""

from collections.abc import Callable

import pytest

from lumos_core.config import RunConfig
from lumos_core.federation.closing import Close, to_ask

Tiny = Callable[..., RunConfig]


@pytest.mark.parametrize(
    ("settings", "members", "asked", "replies"),
    [
        ({}, 5, 5, 5),
        ({"close_at": 0.8}, 5, 5, 4),
        ({"close_at": 0.81}, 5, 5, 5),
        ({"close_at": 0.07}, 100, 100, 7),  # in floats .07 · 100 > 7
        ({"close_at": 3}, 5, 5, 3),
        ({"close_at": 9}, 5, 5, 5),  # no more than are asked
        ({"close_at": 0.1}, 5, 5, 2),  # no fewer than min-replies
        ({"fraction": 0.5}, 10, 5, 5),
        ({"fraction": 0.5, "close_at": 0.8}, 10, 5, 4),
        ({"fraction": 0.5, "over_select": 0.4}, 10, 7, 5),
        ({"fraction": 0.5, "over_select": 0.5}, 10, 8, 5),
        ({"fraction": 0.5, "over_select": 0.4, "close_at": 0.8}, 10, 7, 4),
    ],
)
def test_who_is_asked_and_how_many_replies_are_enough(
    tiny: Tiny, settings: dict[str, float], members: int, asked: int, replies: int
) -> None:
    config = tiny(**settings)
    assert to_ask(config, members) == asked
    assert Close.of(config, members, asked, 0) == (replies, 0)


def test_a_busy_node_does_not_make_a_round_close_earlier(tiny: Tiny) -> None:
    """Of six nodes one is busy: the five that are asked are those of five sixths."""
    config = tiny(close_at=0.8)
    assert Close.of(config, members=6, asked=5, evaluating=0).replies == 5


def test_the_same_share_of_evaluations_is_waited_for(tiny: Tiny) -> None:
    close = Close.of(tiny(fraction=0.5, close_at=0.8), members=10, asked=5, evaluating=5)
    assert close == (4, 4)
    assert not close.reached(4, 3)
    assert not close.reached(3, 5)
    assert close.reached(4, 4)


def test_a_buffer_is_not_waited_for_beyond_who_is_at_work(tiny: Tiny) -> None:
    config = tiny(mode="async", buffer_size=4)
    assert [Close.of_buffer(config, outstanding).replies for outstanding in (9, 4, 3)] == [4, 4, 3]
