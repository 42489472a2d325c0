"""Names of a catalog's items that hold in every catalog that has these items.

An index says where an item stands in one catalog. A view that is to outlive a change of the catalog
is therefore kept with a digest of each item's id and title.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property

from lumos_core.data.catalog import Catalog

NAME_BYTES = 16


class ItemNames:
    """The names of all items of a catalog.

    >>> grown = ItemNames(Catalog(("C3", "B7", "A1"), ("ink", "red lamp", "paper chain")))
    >>> names = ItemNames(Catalog(("B7", "A1"), ("red lamp", "paper chain"))).of([1, 2, 1])
    >>> grown.items(names)
    (2, 3, 2)
    >>> grown.items(ItemNames(Catalog(("B7",), ("blue lamp",))).of([1])) is None
    True
    """

    def __init__(self, catalog: Catalog) -> None:
        self._names = [
            hashlib.sha256(f"{item_id}\t{title}".encode()).digest()[:NAME_BYTES]
            for item_id, title in zip(catalog.item_ids, catalog.titles, strict=True)
        ]

    def of(self, items: Sequence[int]) -> bytes:
        """The names of items (catalog indices), one after the other."""
        return b"".join(self._names[item - 1] for item in items)

    def items(self, names: bytes) -> tuple[int, ...] | None:
        """The catalog indices of names that :meth:`of` joined; None if the catalog lacks one.

        Raises:
            ValueError: these are no joined names.
        """
        if len(names) % NAME_BYTES:
            raise ValueError(f"{len(names)} bytes are no names of items")
        starts = range(0, len(names), NAME_BYTES)
        found = [self._indices.get(names[start : start + NAME_BYTES]) for start in starts]
        known = tuple(item for item in found if item is not None)
        return known if len(known) == len(found) else None

    @cached_property
    def _indices(self) -> dict[bytes, int]:
        return {name: index for index, name in enumerate(self._names, start=1)}
