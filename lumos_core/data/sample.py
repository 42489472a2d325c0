"""The data set that ships with LUMOS (CC BY 4.0, see ``sample/ATTRIBUTION.md``)."""

from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from lumos_core.data.domains import Domain

if TYPE_CHECKING:
    from lumos_core.data.catalog import Catalog

SAMPLE_DOMAIN: Domain = "products"


def bundled_sample() -> Path:
    """Folder with ``interactions.tsv`` and ``items.tsv``: real purchases in an online shop.

    708 customers, 1,482 products, 23,190 purchases; input for ``lumos prepare``.
    """
    return Path(str(resources.files("lumos_core.data") / "sample"))


def is_bundled(catalog: "Catalog") -> bool:
    """Whether a catalog holds the items of the bundled sample, and no others."""
    rows = (bundled_sample() / "items.tsv").read_text("utf-8").splitlines()[1:]
    return set(catalog.item_ids) == {row.partition("\t")[0] for row in rows}


def is_of_bundled_user(user: str, items: Iterable[str]) -> bool:
    """Whether a user of the bundled sample has bought these items.

    Histories may be shown only if this holds: other data can have the sample's catalog.

    Args:
        user: id of a user.
        items: ids of items.
    """
    return set(items) <= _purchases().get(user, set())


@cache
def _purchases() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in (bundled_sample() / "interactions.tsv").read_text("utf-8").splitlines()[1:]:
        user, item = row.split("\t")[:2]
        found.setdefault(user, set()).add(item)
    return found
