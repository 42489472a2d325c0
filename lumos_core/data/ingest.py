"""New interactions for a node that is in use: rows of a log are appended to its file.

What is new is decided row by row: a row that is there already (same user, item and time) is not
taken again. So a log may be ingested twice, may overlap with the last one, and may be ingested once
more when items that the catalog lacked are in it. The file is replaced in one step: a node that
reads it meanwhile, or a kill, sees the old rows or all rows.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from lumos_core.data.filtering import drop_duplicates
from lumos_core.data.forgotten_users import ForgottenUsers
from lumos_core.data.importers.detect import AUTO, load_source
from lumos_core.data.importers.raw_log import RawLog
from lumos_core.data.interactions import read_interactions
from lumos_core.data.layout import node_files
from lumos_core.data.reading.columns import Columns
from lumos_core.data.reading.table_files import Table, column_names, first_true
from lumos_core.data.reading.text_files import read_text, shown
from lumos_core.data.reading.times import units_of
from lumos_core.data.removed_users import GZIP_MAGIC, delete, leftovers, renew_facts
from lumos_core.data.rewriting import changing_data, rewritten
from lumos_core.errors import DataError

UnknownItems = Literal["error", "drop"]
_KEYS = ["user_id", "item_id", "timestamp"]


@dataclass(frozen=True)
class Ingested:
    """What became of the rows of a log: ``read`` is the sum of ``added`` and all others.

    Attributes:
        path: the node's file.
        read: rows of the log.
        added: rows that are new, and in the file now.
        known: rows that the node, or the log itself before them, had already.
        unknown_items: rows whose item is not in the node's catalog.
        items: some of these items.
        forgotten: rows of users whom the node was told to forget.
        new_users: users who had no row before.
        missing: rows that were left out because they lack something, by reason.
        warnings: what the user should know about how the log was read, a sentence each.
    """

    path: Path
    read: int
    added: int
    known: int
    unknown_items: int
    items: tuple[str, ...]
    forgotten: int
    new_users: int
    missing: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def sentence(self) -> str:
        """``25 rows = 20 added (2 new users) + 5 known``."""
        users = "1 new user" if self.new_users == 1 else f"{self.new_users:,} new users"
        added = f"{self.added:,} added" + (f" ({users})" if self.new_users else "")
        rest = {
            "known": self.known,
            "with items that the catalog lacks": self.unknown_items,
            "of forgotten users": self.forgotten,
            **self.missing,
        }
        parts = [added, *(f"{count:,} {what}" for what, count in rest.items() if count)]
        return f"{self.read:,} rows = {' + '.join(parts)}"


def ingest(
    log: Path,
    folder: Path,
    state: Path,
    *,
    log_format: str = AUTO,
    columns: Columns | None = None,
    unknown_items: UnknownItems = "error",
) -> Ingested:
    """Append what is new in a log to a node's interactions.

    Args:
        log: a file or folder in one of the formats of ``lumos prepare``.
        folder: the node's data folder.
        state: its state folder, which says who was forgotten.
        log_format, columns: how to read the log, as for ``lumos prepare``.
        unknown_items: what to do with rows whose item the node's catalog lacks: refuse the log, or
            leave these rows out.

    Raises:
        DataError: naming file and line: the log or the node's data are malformed, an item is
            unknown, or the times of the two are not comparable. Nothing is changed then.
    """
    with changing_data(state):
        files = node_files(folder)
        path = files.interactions.resolve()
        for left in leftovers(path):  # of a process that was killed while it wrote
            delete(left)
        table = read_interactions(path, own=True)
        wanted = replace(columns or Columns(), needs_times=True)
        source = load_source(log, log_format, items=files.catalog, columns=wanted)
        _check_times(source.interactions, table)
        fit, unfit = _known_items(source, unknown_items)
        forgotten = ForgottenUsers.of_node(state).among(fit["user_id"].unique())
        staying = fit.filter(~pl.col("user_id").is_in(sorted(forgotten)))
        old, new = _comparable(table.frame, staying)
        added = drop_duplicates(new, "exact").join(old, _KEYS, "anti", maintain_order="left")
        everything = pl.concat([old, added])
        if len(added):
            _append(table, path, added, everything)
        renew_facts(folder, everything)  # also those of a process that was killed before it did
    return Ingested(
        path=path,
        read=len(source.interactions.frame) + sum(source.interactions.missing.values()),
        added=len(added),
        known=len(staying) - len(added),
        unknown_items=len(unfit),
        items=tuple(unfit["item_id"].unique(maintain_order=True)[:3]),
        forgotten=len(fit) - len(staying),
        new_users=len(set(added["user_id"]) - set(old["user_id"])),
        missing=source.interactions.missing,
        warnings=source.interactions.warnings,
    )


def _known_items(source: RawLog, choice: UnknownItems) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows whose item is in the node's catalog, and the others."""
    log, frame = source.interactions, source.interactions.frame
    known = frame["item_id"].is_in(source.items["item_id"].implode())
    if choice == "error" and not known.all():
        row = first_true(~known)
        raise DataError(
            f"{log.place(row)}: item {shown(frame['item_id'][row])} is not in "
            f"{source.items_source} (rows like it: {int((~known).sum())}), so nothing was taken; "
            "get the run's newest catalog.tsv, or take the other rows with --unknown-items drop: "
            "once the catalog has these items, the same log brings the rows that are left out now"
        )
    return frame.filter(known), frame.filter(~known)


def _check_times(log: Table, table: Table) -> None:
    """Refuse times that cannot be compared with those of the node."""
    ours, theirs = (list(units_of(found.frame["timestamp"])) for found in (table, log))
    if ours and theirs != ours:
        unit = theirs[0] if theirs else "positions, or in no unit that is known"
        raise DataError(
            f"{log.path}: times are {unit}, those of {table.path} are {ours[0]}; expected the same "
            "unit, because histories are in the order of time: convert the log"
        )
    if theirs and not ours:
        raise DataError(
            f"{log.path}: times are {theirs[0]}, those of {table.path} are positions in a history; "
            "expected the same, because histories are in the order of time: prepare the node's "
            "data from a log with times"
        )


def _comparable(old: pl.DataFrame, new: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both with the same type of times: whole numbers, or floats if one of them has fractions."""
    if old["timestamp"].dtype == new["timestamp"].dtype:
        return old.select(_KEYS), new.select(_KEYS)
    whole = pl.col("timestamp").cast(pl.Float64)
    return old.select(_KEYS).with_columns(whole), new.select(_KEYS).with_columns(whole)


def _append(table: Table, path: Path, added: pl.DataFrame, everything: pl.DataFrame) -> None:
    """Write the node's file with more rows, and check that it is read as all of them."""
    with rewritten(path) as fresh:
        if table.format == "parquet":
            _with_parquet_rows(table, path, added).write_parquet(fresh)
        else:
            packed = path.open("rb").read(2) == GZIP_MAGIC
            text = read_text(path)
            text += b"" if text.endswith(b"\n") else b"\n"
            text += _lines(table, path, added).encode()
            fresh.write_bytes(gzip.compress(text) if packed else text)
        try:
            found = read_interactions(fresh, own=True).frame.select(_KEYS)
            same = found.with_columns(
                pl.col("timestamp").cast(everything["timestamp"].dtype)
            ).equals(everything)
        except DataError:
            same = False
        if not same:
            raise DataError(
                f"{path}: with the new rows it would not be read as the old rows and these, so it "
                "was left as it is; let 'lumos prepare' write it anew from the whole log"
            )


def _with_parquet_rows(table: Table, path: Path, added: pl.DataFrame) -> pl.DataFrame:
    old = pl.read_parquet(path)
    try:
        new = added.select(
            pl.col(name).cast(old.schema[column]).alias(column)
            for name, column in table.columns.items()
        )
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path}: its columns cannot hold the new rows ({reason}); let 'lumos prepare' write "
            "it anew from the whole log"
        ) from None
    return pl.concat([old, new], how="diagonal")


def _lines(table: Table, path: Path, added: pl.DataFrame) -> str:
    """New rows as text, in the columns and the dialect of the file."""
    rows = added.rename(dict(table.columns))
    if table.format == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.to_dicts())
    assert table.dialect is not None
    order = column_names(path)
    values = ([row.get(column) for column in order] for row in rows.to_dicts())
    quoting = "plain" if table.dialect.quoting == "plain" else "quoted"
    return _delimited(values, table.dialect.separator, quoting)


def _delimited(rows: Iterable[list[Any]], separator: str, quoting: str) -> str:
    """Rows of delimited text; what a field cannot hold is found when the file is read back."""
    if quoting == "plain":
        return "".join(
            separator.join("" if value is None else str(value) for value in row) + "\n"
            for row in rows
        )
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
