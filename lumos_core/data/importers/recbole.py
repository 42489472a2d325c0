"""RecBole's atomic files: ``NAME.inter`` and, optionally, ``NAME.item``.

Tab-separated, with typed headers such as ``user_id:token`` and ``timestamp:float``
(https://recbole.io/docs/user_guide/data/atomic_files.html).
"""

from pathlib import Path

from lumos_core.data.importers.item_list import is_catalog, with_catalog, without_list
from lumos_core.data.importers.raw_log import Importer, RawLog
from lumos_core.data.interactions import read_interactions, read_items
from lumos_core.data.reading.columns import Columns
from lumos_core.data.reading.table_files import column_names
from lumos_core.errors import DataError


def load_recbole(source: Path, items: Path | None, columns: Columns) -> RawLog:
    """Import atomic files.

    Args:
        source: the ``.inter`` file, or a folder with exactly one.
        items: the ``.item`` file, if it is not beside the ``.inter`` file under the same name; or a
            table, or a run's catalog.
        columns: names of columns, where they are unusual.

    Raises:
        DataError: naming file and line of what is missing or malformed.
    """
    inter = _inter_file(source) if source.is_dir() else source
    item = items or inter.with_suffix(".item")
    _check_types(inter)
    log = read_interactions(inter, columns)
    if items is None and not item.exists():
        return without_list(inter.stem, log, columns, f"no {item.name} beside {inter.name}")
    if is_catalog(item):
        return with_catalog(inter.stem, log, item, columns)
    if item.suffix == ".item":
        _check_types(item)
    listed = read_items(item, columns)
    return RawLog(
        inter.stem, log, listed.frame, str(item), warnings=listed.warnings, title=listed.title
    )


def _inter_file(folder: Path) -> Path:
    found = sorted(folder.glob("*.inter"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(
            f"{folder}: found {names}, expected exactly one .inter file; name the file itself"
        )
    return found[0]


def _check_types(path: Path) -> None:
    untyped = [name for name in column_names(path) if ":" not in name]
    if untyped:
        raise DataError(
            f"{path}: line 1: column {untyped[0]!r} has no type, expected a RecBole header such "
            "as 'user_id:token'; use --format table for plain tables (.tsv, .csv)"
        )


IMPORTER = Importer(
    "*.inter (RecBole)",
    load_recbole,
    finds=lambda names: any(name.endswith(".inter") for name in names),
    knows=lambda path, items: path.suffix == ".inter",
)
