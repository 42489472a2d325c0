"""When the nights of a series begin."""

import os
import time as clock
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos_core.deployment.timetable import Timetable
from lumos_core.errors import ConfigError

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
def berlin() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    clock.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    clock.tzset()


@pytest.mark.parametrize(
    ("every", "seconds"), [("5s", 5), ("90m", 5400), ("12h", 43_200), ("1d", 86_400)]
)
def test_an_interval_is_a_number_with_a_unit(every: str, seconds: int) -> None:
    assert Timetable.parse(every, "").every == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("every", "at", "named"),
    [
        ("", "", "--every and --at"),
        ("1d", "02:00", "--every and --at"),
        ("1", "", "--every 1:"),
        ("daily", "", "--every daily"),
        ("0s", "", "--every 0s"),
        ("400d", "", "--every 400d"),
        ("", "25:00", "--at 25:00"),
        ("", "02:60", "--at 02:60"),
        ("", "2", "--at 2:"),
    ],
)
def test_what_cannot_be_read_is_named(every: str, at: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Timetable.parse(every, at)


def test_with_an_interval_the_first_begins_at_once() -> None:
    assert Timetable.parse("1d", "").next_after(None, NOON) == NOON


def test_an_interval_counts_from_the_beginning_of_the_last() -> None:
    daily = Timetable.parse("1d", "")
    assert daily.next_after(NOON, NOON + timedelta(hours=3)) == NOON + timedelta(days=1)


def test_times_missed_are_left_out_but_for_the_last() -> None:
    daily = Timetable.parse("1d", "")
    later = NOON + timedelta(days=5, hours=1)
    assert daily.next_after(NOON, later) == NOON + timedelta(days=5)


def test_the_time_of_day_is_the_servers(berlin: None) -> None:
    at_two = Timetable.parse("", "02:00")
    assert at_two.next_after(None, NOON) == datetime(2026, 3, 11, 1, tzinfo=UTC)  # 02:00 CET
    begun = datetime(2026, 3, 28, 1, 0, 1, tzinfo=UTC)
    after = at_two.next_after(begun, begun + timedelta(hours=2))
    # on 29 March clocks go from 02:00 to 03:00, so there is no such time: an hour earlier
    assert after == datetime(2026, 3, 29, tzinfo=UTC)
    summer = at_two.next_after(datetime(2026, 4, 1, 0, 0, 2, tzinfo=UTC), NOON)
    assert summer == datetime(2026, 4, 2, tzinfo=UTC)  # 02:00 CEST


def test_a_night_missed_while_the_server_was_off_is_due_once(berlin: None) -> None:
    at_two = Timetable.parse("", "02:00")
    begun = datetime(2026, 3, 2, 1, 0, 1, tzinfo=UTC)
    assert at_two.next_after(begun, NOON) == datetime(2026, 3, 10, 1, tzinfo=UTC)


@given(
    begun=st.integers(0, 10**6),
    later=st.integers(0, 10**6),
    every=st.integers(1, 10**5),
)
def test_the_next_is_after_the_last_and_at_most_an_interval_away(
    begun: int, later: int, every: int
) -> None:
    start = NOON + timedelta(seconds=begun)
    now = start + timedelta(seconds=later)
    due = Timetable.parse(f"{every}s", "").next_after(start, now)
    assert start < due <= max(now, start) + timedelta(seconds=every)
    assert (due - start) % timedelta(seconds=every) == timedelta(0)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (Timetable.parse("1d", ""), "every 1 d"),
        (Timetable.parse("90m", ""), "every 90 m"),
        (Timetable.parse("", "2:05"), "every day at 02:05"),
    ],
)
def test_it_is_said_in_words(table: Timetable, text: str) -> None:
    assert str(table) == text
