"""An importer: a line a user, ``user: item item item``, in the order of time."""

from pathlib import Path

import polars as pl

from lumos_core.data.importers.raw_log import Importer, RawLog, items_of_log
from lumos_core.data.reading.columns import Columns
from lumos_core.data.reading.table_files import Table
from lumos_core.errors import DataError


def load_baskets(source: Path, items: Path | None, columns: Columns) -> RawLog:
    """Import such a file."""
    rows = []
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        user, colon, bought = line.partition(":")
        if not colon:
            raise DataError(
                f"{source}, line {number}: found {line!r}, expected 'user: item item …'"
            )
        rows += [(user, item, time) for time, item in enumerate(bought.split())]
    frame = pl.DataFrame(
        rows,
        schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64},
        orient="row",
    )
    table = Table(source, "tsv", frame)
    return RawLog(source.stem, table, items_of_log(table), str(source), listed=False)


IMPORTER = Importer("a line a user", load_baskets)
