"""Finds the format of a source and calls the importer for it."""

from pathlib import Path

from lumos_core import plugins
from lumos_core.data.importers import amazon, mind, own_table, recbole
from lumos_core.data.importers.raw_log import Importer, RawLog
from lumos_core.data.reading.columns import Columns
from lumos_core.errors import ConfigError, DataError

AUTO = "auto"
IMPORTERS: dict[str, Importer] = {
    "mind": mind.IMPORTER,
    "recbole": recbole.IMPORTER,
    "table": own_table.IMPORTER,
    "amazon": amazon.IMPORTER,
}
"""Importers by name of the format, in the order in which they are tried for a folder."""
_OF_FILES = ("mind", "recbole", "amazon", "table")
"""The order in which they are tried for a file: a file of no other format is a table."""


def formats() -> list[str]:
    """What ``--format`` may be, plug-ins included."""
    return [AUTO, *IMPORTERS, *plugins.names("importer")]


def load_source(
    source: Path,
    source_format: str = AUTO,
    *,
    items: Path | None = None,
    columns: Columns | None = None,
    impression_clicks: bool = False,
) -> RawLog:
    """Read a data set in any of the formats that LUMOS, or an installed plug-in, knows.

    Args:
        source: a folder or the file with the interactions.
        source_format: one of :func:`formats`.
        items: the file with items and titles, if it is not found beside the interactions; a run's
            catalog with every format.
        columns: names of columns, where they are unusual.
        impression_clicks: MIND: append clicks in impressions to the histories.

    Raises:
        ConfigError: there is no such format.
        DataError: naming file and line of what is missing or malformed; or an option that would
            have no effect.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; check the path")
    found = source_format if source_format != AUTO else detect_format(source, items)
    if found not in formats():
        raise ConfigError(
            f"--format {found}: no such format, expected one of {', '.join(formats())} (csv, tsv, "
            "jsonl and parquet files are tables), or that of a plug-in, whose package has to be "
            "installed here"
        )
    importer = IMPORTERS[found] if found in IMPORTERS else plugins.load("importer", found)
    if not impression_clicks:
        return importer.load(source, items, columns or Columns())
    if not importer.impressions:
        raise DataError(
            f"--impression-clicks: would have no effect, for only MIND's logs have impressions, "
            f"and {source} is read as {found}; leave it out"
        )
    return importer.load(source, items, columns or Columns(), impression_clicks=True)


def detect_format(source: Path, items: Path | None = None) -> str:
    """The format of a folder or file, by names of files and keys of the first record.

    Args:
        items: the list of items that goes with it, if that is named.

    Raises:
        DataError: if nothing known is found.
    """
    if source.is_file():
        return next(name for name in _OF_FILES if IMPORTERS[name].knows(source, items))
    names = sorted(path.name for path in source.iterdir() if path.is_file())
    for name, importer in IMPORTERS.items():
        if importer.finds(names):
            return name
    found = ", ".join(names[:8]) or "no file"
    *most, last = (IMPORTERS[name].expected for name in ("table", "mind", "recbole", "amazon"))
    raise DataError(
        f"{source}: found {found}; expected {', '.join(most)} or {last}; name the file itself"
    )
