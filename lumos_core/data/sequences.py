"""Histories of users as item indices, with the time of each interaction where it is known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

MIN_HISTORY = 3  # one item to train on, one for validation, one for the test

Items = NDArray[np.int32]
Targets = NDArray[np.int64]
Times = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sequences:
    """Chronological histories of U users in compressed rows.

    Attributes:
        user_ids: U texts; they never leave the node.
        items: int32 [sum of lengths], catalog indices (1..N).
        offsets: int64 [U + 1]; user u owns ``items[offsets[u]:offsets[u + 1]]``.
        left_out: number of users of the same data who are not here: their histories are too short.
        times: float64, one for each item, as the file has them (any unit, or positions); None if
            nobody kept them.
    """

    user_ids: tuple[str, ...]
    items: Items
    offsets: NDArray[np.int64]
    left_out: int = 0
    times: Times | None = None

    def __post_init__(self) -> None:
        if self.items.dtype != np.int32 or self.offsets.dtype != np.int64:
            raise TypeError(f"items {self.items.dtype}, offsets {self.offsets.dtype}")
        if self.offsets.shape != (len(self.user_ids) + 1,) or self.offsets[0] != 0:
            raise ValueError("offsets must be [U + 1] and start with 0")
        if self.offsets[-1] != len(self.items) or (np.diff(self.offsets) < 0).any():
            raise ValueError("offsets must rise to the number of items")
        if self.times is not None and self.times.shape != self.items.shape:
            raise ValueError(f"{self.times.shape} times of {self.items.shape} items")

    def __len__(self) -> int:
        """The number of users."""
        return len(self.user_ids)

    def __getitem__(self, u: int) -> Items:
        """History of user u, int32 [T_u] (a view, not a copy)."""
        if not 0 <= u < len(self):
            raise IndexError(f"user {u} is outside 0..{len(self) - 1}")
        return self.items[self.offsets[u] : self.offsets[u + 1]]

    def __iter__(self) -> Iterator[Items]:
        return (self[u] for u in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [U]."""
        return np.diff(self.offsets)

    @property
    def users_text(self) -> str:
        """For the owner of the data: how many users there are, and how many were left out."""
        return users_text(len(self), self.left_out)

    @classmethod
    def from_lists(
        cls, lists: Sequence[Sequence[int]], user_ids: Sequence[str] | None = None
    ) -> "Sequences":
        """Sequences of the given lists; users are named "0", "1", … without ``user_ids``."""
        names = tuple(map(str, range(len(lists)))) if user_ids is None else tuple(user_ids)
        if len(names) != len(lists):
            raise ValueError(f"{len(lists)} lists but {len(names)} user ids")
        items = np.fromiter((i for row in lists for i in row), dtype=np.int32)
        return cls(names, items, _offsets(np.array([len(row) for row in lists], dtype=np.int64)))

    @classmethod
    def concat(cls, parts: Sequence["Sequences"]) -> "Sequences":
        """The users of all parts, one after the other."""
        if not parts:
            return cls.from_lists([])
        names = tuple(name for part in parts for name in part.user_ids)
        lengths = np.concatenate([part.lengths for part in parts])
        items = np.concatenate([part.items for part in parts])
        known = [part.times for part in parts if part.times is not None]
        times = np.concatenate(known) if len(known) == len(parts) else None
        return cls(names, items, _offsets(lengths), sum(part.left_out for part in parts), times)

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> "Sequences":
        """The users at these positions, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        if chosen.size and not ((chosen >= 0) & (chosen < len(self))).all():
            raise IndexError(f"users outside 0..{len(self) - 1}")
        lengths = self.lengths[chosen]
        offsets = _offsets(lengths)
        source = np.repeat(self.offsets[:-1][chosen] - offsets[:-1], lengths)
        at = source + np.arange(offsets[-1])
        names = tuple(self.user_ids[i] for i in chosen)
        return Sequences(names, self.items[at], offsets, 0, _where(self.times, at))

    def without_last(self, n: int) -> "Sequences":
        """Every history without its last n items; all must be at least n long."""
        if (self.lengths < n).any():
            raise ValueError(f"a history is shorter than {n}")
        keep = np.ones(len(self.items), dtype=bool)
        for back in range(1, n + 1):
            keep[self.offsets[1:] - back] = False
        lengths = _offsets(self.lengths - n)
        return Sequences(self.user_ids, self.items[keep], lengths, 0, _where(self.times, keep))

    def shortened(self, lengths: NDArray[np.int64]) -> "Sequences":
        """The first items of every history.

        Args:
            lengths: int64 [U], how many.
        """
        if lengths.shape != self.lengths.shape or ((lengths < 0) | (lengths > self.lengths)).any():
            raise ValueError("lengths must be [U], from 0 to those of the histories")
        places = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], self.lengths)
        keep = places < np.repeat(lengths, self.lengths)
        return Sequences(
            self.user_ids, self.items[keep], _offsets(lengths), 0, _where(self.times, keep)
        )


def users_text(users: int, left_out: int) -> str:
    """``12 users``, or ``12 users (2 more left out: fewer than 3 interactions each)``."""
    if not left_out:
        return f"{users} users"
    return f"{users} users ({left_out} more left out: fewer than {MIN_HISTORY} interactions each)"


def _where(times: Times | None, at: NDArray[np.generic]) -> Times | None:
    return None if times is None else cast(Times, times[at])


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
