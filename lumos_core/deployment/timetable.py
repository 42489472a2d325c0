"""When the next run of a series begins: ``--every 1d`` or ``--at 02:00``.

``every`` counts from the beginning of the last run, ``at`` is a time of day on the server's clock.
A run that is still going on when the next one is due is not interrupted: the time that it has
missed is left out, and the series goes on with the next one.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from lumos_core.errors import ConfigError

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SHORTEST = timedelta(seconds=1)
_LONGEST = timedelta(days=366)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Timetable:
    """Either an interval or a time of day.

    Attributes:
        every: from the beginning of one run to that of the next.
        at: time of day, in the server's time zone; None for an interval.
    """

    every: timedelta
    at: time | None = None

    @classmethod
    def parse(cls, every: str, at: str) -> "Timetable":
        """The timetable of the two options, of which exactly one is given.

        >>> Timetable.parse("90m", "").every
        datetime.timedelta(seconds=5400)
        >>> Timetable.parse("", "02:30").at
        datetime.time(2, 30)

        Raises:
            ConfigError: both are given or none, or one cannot be read.
        """
        if bool(every) == bool(at):
            raise ConfigError("--every and --at: expected one of them, such as --every 1d")
        return cls(_interval(every)) if every else cls(_DAY, _time_of_day(at))

    def next_after(self, begun: datetime | None, now: datetime) -> datetime:
        """When the next run begins.

        Args:
            begun: when the last run began, with its time zone; None before the first.
            now: the present, with its time zone.

        Returns:
            A time in UTC; not after ``now`` if a run is due.
        """
        if self.at is not None:
            return self._next_time_of_day(begun, now)
        if begun is None:
            return now.astimezone(UTC)
        due = begun + self.every
        # a run that took longer than the interval: the times that have passed are left out, but
        # for the last of them, which is due
        missed = max((now - due) // self.every, 0)
        return (due + missed * self.every).astimezone(UTC)

    def _next_time_of_day(self, begun: datetime | None, now: datetime) -> datetime:
        """The first such time after the last run began; before the first, after now."""
        after = (now if begun is None else begun).astimezone()
        today = self._on(after)
        due = today if today > after else self._on(after + _DAY)
        if begun is None:
            return due.astimezone(UTC)
        latest = self._on(now.astimezone())
        if latest > now:
            latest = self._on(now.astimezone() - _DAY)
        return max(due, latest).astimezone(UTC)

    def _on(self, day: datetime) -> datetime:
        """The time on a day, by the rules for summer time of that day."""
        assert self.at is not None
        return datetime.combine(day.date(), self.at).astimezone()

    def __str__(self) -> str:
        if self.at is not None:
            return f"every day at {self.at:%H:%M}"
        return f"every {_text(self.every)}"


def _interval(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if found is None:
        raise ConfigError(f"--every {text}: expected a number with s, m, h or d, such as 12h or 1d")
    value = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if not _SHORTEST <= value <= _LONGEST:
        raise ConfigError(f"--every {text}: expected at least 1s and at most 366d")
    return value


def _time_of_day(text: str) -> time:
    found = re.fullmatch(r"(\d{1,2}):(\d{2})", text.strip())
    if found is None or int(found[1]) > 23 or int(found[2]) > 59:
        raise ConfigError(f"--at {text}: expected a time of day, such as 02:00")
    return time(int(found[1]), int(found[2]))


def _text(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
