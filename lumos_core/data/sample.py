"""The data set that ships with LUMOS (CC BY 4.0, see ``sample/ATTRIBUTION.md``)."""

from importlib import resources
from pathlib import Path


def bundled_sample() -> Path:
    """Folder with ``interactions.tsv`` and ``items.tsv``: real purchases in an online shop.

    708 customers, 1,482 products, 23,190 purchases; input for ``lumos prepare``.
    """
    return Path(str(resources.files("lumos_core.data") / "sample"))
