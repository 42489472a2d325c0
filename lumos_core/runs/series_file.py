"""``series.json``: the runs of a series, a night after another, and the model that is in use.

This module must not need torch: ``lumos status`` reads the file.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from lumos_core.errors import DataError
from lumos_core.safe_files import JsonFile

SERIES = "series.json"
CURRENT = "current"
"""A link in a series' folder to the run whose model is in use; absent before the first."""
RUNS = "runs"
"""The folder of the nights' runs."""
LISTED = 400
"""Nights that the file lists, the latest ones. The sum of ε has all."""


class NightCost(BaseModel):
    """Training that a night has cost, as far as ε is concerned.

    Attributes:
        noise: noise multiplier.
        steps: by node, then by sampling rate: the number of mechanisms.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    noise: float
    steps: dict[str, dict[str, int]]


class Night(BaseModel):
    """One run of a series.

    Attributes:
        name: its folder in ``runs``.
        begun, ended: UTC, ISO 8601; ``ended`` is empty while it runs, or if the server died in it.
        outcome: how it ended.
        reason: why it failed or what else there is to say; empty otherwise.
        rounds: finished rounds.
        best_round: the round of its best model; 0 for the model that it began with.
        before: NDCG@20 of the model that it began with, on the night's validation targets; None if
            that was not measured.
        after: the same of its best model.
        promoted: whether its model is in use since then.
        epsilon: ε of this night alone; None without differential privacy.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    name: str
    begun: str
    ended: str = ""
    outcome: Literal["running", "completed", "failed"] = "running"
    reason: str = ""
    rounds: int = 0
    best_round: int = -1
    before: float | None = None
    after: float | None = None
    promoted: bool = False
    epsilon: float | None = None


class SeriesFile(JsonFile):
    """The file.

    Attributes:
        timetable: in words.
        nights: the latest, oldest first; at most :data:`LISTED`.
        number: of nights so far.
        model: the night whose model is in use; empty before the first.
        costs: what all nights have cost together, one entry for each noise multiplier.
        epsilon: ε of all nights together; None without differential privacy.
        ended: why the series is over; empty while it goes on.
        next: when the next night begins, UTC; empty while one runs.
    """

    failure: ClassVar[type[DataError]] = DataError
    repair: ClassVar[str] = (
        "it says which model is in use and how much ε was spent: restore it from a copy, or begin "
        "another series with --series FOLDER"
    )

    timetable: str = ""
    nights: tuple[Night, ...] = ()
    number: int = 0
    model: str = ""
    costs: tuple[NightCost, ...] = ()
    epsilon: float | None = None
    ended: str = ""
    next: str = ""

    @property
    def last(self) -> Night | None:
        """The latest night."""
        return self.nights[-1] if self.nights else None

    @property
    def completed(self) -> bool:
        """Whether any night has had a result."""
        return bool(self.model)

    def with_night(self, night: Night) -> "SeriesFile":
        """With a night begun, or its entry replaced."""
        known = self.last is not None and self.last.name == night.name
        nights = (*(self.nights[:-1] if known else self.nights), night)
        return self.model_copy(
            update={"nights": nights[-LISTED:], "number": self.number + (not known)}
        )

    def without_last(self) -> "SeriesFile":
        """As if the latest night had not begun."""
        return self.model_copy(update={"nights": self.nights[:-1], "number": self.number - 1})


def is_series(folder: Path) -> bool:
    """Whether a folder is that of a series."""
    return (folder / SERIES).is_file()


def now_text(now: datetime) -> str:
    """A time as the file holds it."""
    return now.astimezone(UTC).isoformat(timespec="seconds")
