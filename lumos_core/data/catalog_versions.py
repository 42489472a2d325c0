"""Versions of a catalog that grows: a chain of fingerprints beside ``catalog.tsv``.

A new version may add items at the end and correct titles; ids stay where they are, so a row of a
model means the same item in all versions. ``catalog.versions.json`` names them, oldest first, each
with its fingerprint, its number of items, its parent, and the titles that it has corrected, as they
were before. So every earlier version can be made again from the newest catalog, and is compared
with its fingerprint before anybody relies on it.

Without the file, a catalog has one version, and what it has grown from is known by its first items
alone (:meth:`~lumos_core.data.catalog.Catalog.extends`).
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from lumos_core.data.catalog import FINGERPRINT_PATTERN, Catalog, short_fingerprint
from lumos_core.data.layout import CATALOG_VERSIONS
from lumos_core.errors import DataError, LumosError
from lumos_core.safe_files import JsonFile

Fingerprint = Annotated[str, Field(pattern=FINGERPRINT_PATTERN)]


class CatalogVersion(BaseModel):
    """One version.

    Attributes:
        fingerprint: of the catalog.
        items: how many it has.
        parent: fingerprint of the version before; empty for the first.
        corrected: by id, the title in the version before, of items whose title it has changed.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    fingerprint: Fingerprint
    items: Annotated[int, Field(ge=1)]
    parent: str = ""
    corrected: dict[str, str] = {}  # pydantic copies it


class VersionsFile(JsonFile):
    """``catalog.versions.json``; versions after that of the catalog beside it do not count yet."""

    failure: ClassVar[type[LumosError]] = DataError
    repair: ClassVar[str] = (
        "copy it again from where 'lumos catalog extend' wrote it, or remove it: then the catalog "
        "has no earlier versions"
    )

    versions: tuple[CatalogVersion, ...] = ()


class Earlier(NamedTuple):
    """An earlier version of a catalog.

    Attributes:
        number: from 1 for the first.
        of: the number of the newest.
        fingerprint: of the version.
        items: how many it has.
    """

    number: int
    of: int
    fingerprint: str
    items: int


class Grown(NamedTuple):
    """What a new version changes.

    Attributes:
        number: of the new version.
        added: how many items are new.
        corrected: the corrected ones: id, title before, title now.
    """

    number: int
    added: int
    corrected: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Lineage:
    """A catalog and the versions before it.

    Attributes:
        catalog: the newest.
        versions: all, oldest first; the last is that of the catalog.

    >>> old = Catalog(("B7", "A1"), ("red lamp", "paper chian"))
    >>> new = Catalog(("B7", "A1", "C3"), ("red lamp", "paper chain", "tea pot"))
    >>> chain, grown = Lineage.of(old).extended(new)
    >>> chain.earlier(old.fingerprint).items, grown.corrected
    (2, (('A1', 'paper chian', 'paper chain'),))
    """

    catalog: Catalog
    versions: tuple[CatalogVersion, ...]

    @classmethod
    def of(cls, catalog: Catalog) -> Self:
        """The versions that are written beside a catalog.

        Raises:
            DataError: the file is damaged, or of another catalog.
        """
        path = None if catalog.path is None else catalog.path.with_name(CATALOG_VERSIONS)
        found = VersionsFile.read_if_there(path) if path is not None else None
        first = CatalogVersion(fingerprint=catalog.fingerprint, items=len(catalog))
        if path is None or found is None:
            return cls(catalog, (first,))
        numbers = [
            n
            for n, version in enumerate(found.versions)
            if catalog.is_known_as(version.fingerprint)
        ]
        if not numbers:
            raise DataError(
                f"{path}: has no version {short_fingerprint(catalog.fingerprint)}…, which is that "
                f"of {catalog.path}; {VersionsFile.repair}"
            )
        chain = found.versions[: numbers[-1] + 1]
        for before, after in pairwise(chain):
            if after.parent != before.fingerprint or after.items < before.items:
                raise DataError(
                    f"{path}: version {short_fingerprint(after.fingerprint)}… does not follow "
                    f"{short_fingerprint(before.fingerprint)}…; {VersionsFile.repair}"
                )
        return cls(catalog, chain)

    def earlier(self, fingerprint: str) -> Earlier | None:
        """The version with a fingerprint, if it is one before the catalog's.

        Raises:
            DataError: the chain says so, but that version cannot be made from the catalog.
        """
        for n, version in enumerate(self.versions[:-1]):
            if version.fingerprint == fingerprint:
                self._check(n)
                return Earlier(n + 1, len(self.versions), fingerprint, version.items)
        return None

    def descends_from(self, size: int, fingerprint: str) -> bool:
        """Whether the first items of the catalog are those of another, in its order: it is an
        earlier version, or this catalog begins with it.

        Args:
            size: number of items of that catalog.
            fingerprint: its fingerprint.

        Raises:
            DataError: as :meth:`earlier`.
        """
        if self.catalog.extends(size, fingerprint):
            return True
        found = self.earlier(fingerprint)
        return found is not None and found.items == size

    def extended(self, new: Catalog) -> tuple["Lineage", Grown]:
        """The chain with one version more, and what that changes.

        Args:
            new: the next version; if it is the present one, nothing changes.

        Raises:
            DataError: an item has another place in it, or is not there any more.
        """
        old = self.catalog
        _check_places(old, new)
        corrected = tuple(
            (item, before, now)
            for item, before, now in zip(old.item_ids, old.titles, new.titles, strict=False)
            if before != now
        )
        grown = Grown(len(self.versions) + 1, len(new) - len(old), corrected)
        if not grown.added and not corrected:
            return self, grown._replace(number=len(self.versions))
        version = CatalogVersion(
            fingerprint=new.fingerprint,
            items=len(new),
            parent=self.versions[-1].fingerprint,
            corrected={item: before for item, before, _ in corrected},
        )
        return Lineage(new, (*self.versions, version)), grown

    def write(self, path: Path) -> None:
        """Write the catalog and, beside it, its versions.

        After a kill in between, the old catalog is still there, and the chain holds a version that
        does not count yet.

        Args:
            path: of the catalog.
        """
        VersionsFile(versions=self.versions).write(path.with_name(CATALOG_VERSIONS))
        self.catalog.write(path)

    def _check(self, n: int) -> None:
        """Make version n again from the catalog, and compare its fingerprint."""
        ids, titles = list(self.catalog.item_ids), list(self.catalog.titles)
        for version in reversed(self.versions[n + 1 :]):
            for item, before in version.corrected.items():
                titles[self.catalog.index(item) - 1] = before
        wanted = self.versions[n]
        made = Catalog(tuple(ids[: wanted.items]), tuple(titles[: wanted.items]))
        if not made.is_known_as(wanted.fingerprint):
            raise DataError(
                f"{CATALOG_VERSIONS}: version {n + 1} of {len(self.versions)} cannot be made from "
                f"the catalog: found {short_fingerprint(made.fingerprint)}…, expected "
                f"{short_fingerprint(wanted.fingerprint)}…; {VersionsFile.repair}"
            )


def _check_places(old: Catalog, new: Catalog) -> None:
    """Refuse a catalog in which an item of the old one has another place or none."""
    where = new.path or "the new catalog"
    places = {item: n for n, item in enumerate(new.item_ids, start=1)}
    for n, item in enumerate(old.item_ids, start=1):
        place = places.get(item)
        if place is None:
            raise DataError(
                f"{where}: item {item!r} (number {n} of {old.path or 'the old catalog'}) is "
                "missing, expected all old items: models have a row for it; keep it, also if it is "
                "not sold any more"
            )
        if place != n:
            raise DataError(
                f"{where}: item {item!r} is number {place}, expected {n} as in "
                f"{old.path or 'the old catalog'}: rows of models would mean other items; keep the "
                "order, and add new items at the end"
            )
