"""The catalog: every item that can be recommended, public to all nodes.

Its fingerprint is a text ``VERSION:HEX``. It is equal wherever ids, titles and their order are
equal, for any version of Python and Unicode. A fingerprint of the first version has only the
hexadecimal digits, and its titles were cleaned by another rule: see :meth:`Catalog.is_known_as`.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lumos_core.data.reading.text_files import CONTROL, read_text
from lumos_core.data.reading.title_text import clean_title, is_quoted
from lumos_core.errors import DataError
from lumos_core.safe_files import write_atomically

HEADER = "item_id\ttitle"
FINGERPRINT_VERSION = 2
"""Changes whenever the same items could get another fingerprint."""
FINGERPRINT_PATTERN = "^([1-9][0-9]{0,3}:)?[0-9a-f]{64}$"
"""Regular expression for fingerprints of any version, also of later ones."""


@dataclass(frozen=True)
class Catalog:
    """Item ids and titles in index order: row 1 is index 1, index 0 is padding.

    Ids are always text (leading zeros count). Ids and titles are not empty and hold no line break.
    Titles are cleaned by `clean_title` (:mod:`lumos_core.data.reading.title_text`) and have no CSV
    quoting: ``catalog.tsv`` has none.

    Raises:
        DataError: if there is no item, an id occurs twice, an id or title is empty or holds a tab
            or line break, or a title is quoted.

    >>> catalog = Catalog(("B7", "A1"), ("red lamp", "paper chain"))
    >>> len(catalog), catalog.index("A1"), catalog.title(1)
    (2, 2, 'red lamp')
    >>> catalog.fingerprint == Catalog(("A1", "B7"), ("paper chain", "red lamp")).fingerprint
    False
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
            if is_quoted(title):
                raise DataError(f"catalog: item {item_id!r}: {_quoting(title)}")

    def __len__(self) -> int:
        """The number of items N; valid indices are 1..N."""
        return len(self.item_ids)

    @cached_property
    def fingerprint(self) -> str:
        """Version and SHA-256 (hex) of ids and titles in order; equal on all sides of a
        federation."""
        text = f"lumos-catalog-{FINGERPRINT_VERSION}\n{self._text()}"
        return f"{FINGERPRINT_VERSION}:{_sha256(text)}"

    def is_known_as(self, fingerprint: str) -> bool:
        """Whether a fingerprint, of this version or the first, is of these items in this order.

        The first version removed characters (joiners, soft hyphens) from titles that are kept now.
        Its fingerprints, computed without these characters, are still accepted.
        """
        return fingerprint == self.fingerprint or fingerprint in self._first_version

    def extends(self, size: int, fingerprint: str) -> bool:
        """Whether the first items are those of a catalog: it is this one, or this one has grown
        from it.

        Args:
            size: number of items of that catalog.
            fingerprint: its fingerprint, of this version or the first.

        >>> small = Catalog(("B7", "A1"), ("red lamp", "paper chain"))
        >>> grown = Catalog(("B7", "A1", "C3"), ("red lamp", "paper chain", "tea pot"))
        >>> grown.extends(2, small.fingerprint), small.extends(3, grown.fingerprint)
        (True, False)
        """
        if not 0 < size <= len(self):
            return False
        return Catalog(self.item_ids[:size], self.titles[:size]).is_known_as(fingerprint)

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
            if is_quoted(title):
                raise DataError(f"{path}: line {number}: {_quoting(title)}")
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
        return self._rows(self.item_ids, self.titles)

    @staticmethod
    def _rows(item_ids: Iterable[str], titles: Iterable[str]) -> str:
        pairs = zip(item_ids, titles, strict=True)
        return "".join(f"{item_id}\t{title}\n" for item_id, title in pairs)

    @cached_property
    def _first_version(self) -> frozenset[str]:
        """Fingerprints of version 1: of these titles, and of what its cleaning made of them."""
        cleaned = Catalog._rows(self.item_ids, map(_first_cleaning, self.titles))
        return frozenset({_sha256(self._text()), _sha256(cleaned)})

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {item_id: index for index, item_id in enumerate(self.item_ids, start=1)}

    def _row(self, index: int) -> int:
        if not 1 <= index <= len(self):
            raise IndexError(f"item index {index} is outside 1..{len(self)}")
        return index - 1


def short_fingerprint(fingerprint: str) -> str:
    """The beginning of a fingerprint, for messages: enough to tell two apart."""
    return fingerprint[:14] if ":" in fingerprint[:5] else fingerprint[:12]


def differing_versions(found: str, expected: str) -> str:
    """The end of a message about two fingerprints that differ: empty if their versions are the
    same; else it says that fingerprints of two versions cannot be compared."""
    one, other = _version(found), _version(expected)
    if one == other:
        return ""
    return (
        f"; the two are of versions {one or 'unknown'} and {other or 'unknown'} and cannot be "
        "compared: use one version of LUMOS on all machines"
    )


def _version(fingerprint: str) -> int | None:
    if not re.fullmatch(FINGERPRINT_PATTERN, fingerprint):
        return None
    version, colon, _ = fingerprint.partition(":")
    return int(version) if colon else 1


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _first_cleaning(title: str) -> str:
    """A title as the first version cleaned it, by the Unicode tables of this Python."""
    return " ".join("".join(c if c.isprintable() else " " for c in title).split())


def _quoting(title: str) -> str:
    return (
        f"found title {title[:60]!r}, quoted as in CSV, expected plain text: a catalog has no "
        "quoting; write it without (pandas: quoting=csv.QUOTE_NONE), or let 'lumos prepare' write "
        "it from items.tsv"
    )
