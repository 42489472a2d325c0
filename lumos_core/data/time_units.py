"""Units in which files have Unix times. They are told apart by size: see :data:`UNITS`."""

from typing import NamedTuple


class TimeUnit(NamedTuple):
    """A unit.

    Attributes:
        name: of the unit.
        least: the smallest number that is a Unix time after 1973 in it.
        in_a_second: how many of the unit are a second.
    """

    name: str
    least: float
    in_a_second: float


UNITS = (
    TimeUnit("seconds", 1e8, 1.0),
    TimeUnit("milliseconds", 1e11, 1e3),
    TimeUnit("microseconds", 1e14, 1e6),
    TimeUnit("nanoseconds", 1e17, 1e9),
)
"""From the smallest numbers up. Smaller ones than the first may have any unit, or be positions."""
