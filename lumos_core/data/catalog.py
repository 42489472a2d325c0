"""The catalog: every item that can be recommended, public to all nodes."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lumos_core.data.files import CONTROL, clean_title, read_text
from lumos_core.errors import DataError
from lumos_core.files import write_atomically

HEADER = "item_id\ttitle"


@dataclass(frozen=True)
class Catalog:
    """Item ids and titles in index order: row 1 is index 1, index 0 is padding.

    Ids are text, always (leading zeros count). Ids and titles are non-empty and lie on one line;
    titles are as :func:`~lumos_core.data.files.clean_title` leaves them.

    Raises:
        DataError: if there is no item, an id occurs twice, or an id or title is empty or holds
            a tab or line break.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.item_ids) != len(self.titles):
            raise DataError(f"catalog: {len(self.item_ids)} ids but {len(self.titles)} titles")
        if not self.item_ids:
            raise DataError("catalog: found no item, expected at least one")
        if len(self._indices) != len(self.item_ids):
            twice = [i for i, n in Counter(self.item_ids).items() if n > 1]
            raise DataError(f"catalog: duplicate item id {twice[0]!r}; keep one row per item")
        for item_id, title in zip(self.item_ids, self.titles, strict=True):
            if not item_id or item_id != item_id.strip() or CONTROL.search(item_id):
                raise DataError(f"catalog: item id {item_id!r}: expected text on one line")
            if not title or title != clean_title(title):
                raise DataError(
                    f"catalog: item {item_id!r}: found title {title!r}, expected text on one line, "
                    "not empty, without tabs or doubled spaces"
                )

    def __len__(self) -> int:
        """The number of items N; valid indices are 1..N."""
        return len(self.item_ids)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of ids and titles in order; equal on all sides of a federation."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    def index(self, item_id: str) -> int:
        """Index of an item, 1..N.

        Raises:
            DataError: if the catalog does not hold it.
        """
        try:
            return self._indices[item_id]
        except KeyError:
            raise DataError(f"item {item_id!r} is not in the catalog ({len(self)} items)") from None

    def item_id(self, index: int) -> str:
        """Id of the item with this index, 1..N."""
        return self.item_ids[self._row(index)]

    def title(self, index: int) -> str:
        """Title of the item with this index, 1..N."""
        return self.titles[self._row(index)]

    @classmethod
    def read(cls, path: Path) -> "Catalog":
        """Read ``catalog.tsv`` (header ``item_id<TAB>title``; optionally gzipped).

        Raises:
            DataError: naming file and line.
        """
        lines = read_text(path).decode().rstrip("\n").split("\n")
        if lines[0] != HEADER:
            raise DataError(
                f"{path}: line 1: found header {lines[0]!r}, expected {HEADER!r}; "
                "'lumos prepare' writes catalogs from other tables"
            )
        titles: dict[str, str] = {}
        line_of: dict[str, int] = {}
        for number, line in enumerate(lines[1:], start=2):
            fields = line.split("\t")
            if len(fields) != 2:
                raise DataError(
                    f"{path}: line {number}: found {len(fields)} fields, expected 2 "
                    "(item_id, title) separated by one tab"
                )
            item_id, title = fields[0].strip(), clean_title(fields[1])
            if not item_id or not title:
                raise DataError(
                    f"{path}: line {number}: empty {'title' if item_id else 'item_id'}; "
                    "every item needs both (repeat the id where there is no title)"
                )
            if item_id in titles:
                raise DataError(
                    f"{path}: line {number}: duplicate item id {item_id!r}, first on line "
                    f"{line_of[item_id]}; keep one row per item"
                )
            titles[item_id], line_of[item_id] = title, number
        if not titles:
            raise DataError(f"{path}: only a header, expected at least one item")
        return cls(tuple(titles), tuple(titles.values()))

    def write(self, path: Path) -> None:
        """Write ``catalog.tsv`` atomically."""
        write_atomically(path, f"{HEADER}\n{self._text()}".encode())

    def _text(self) -> str:
        pairs = zip(self.item_ids, self.titles, strict=True)
        return "".join(f"{item_id}\t{title}\n" for item_id, title in pairs)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {item_id: index for index, item_id in enumerate(self.item_ids, start=1)}

    def _row(self, index: int) -> int:
        if not 1 <= index <= len(self):
            raise IndexError(f"item index {index} is outside 1..{len(self)}")
        return index - 1
