"""A node's data without some of its users: the file of interactions is written anew.

All other rows stay as they are, with every column. The new file is read back and compared with
what should be in it before it replaces the old one, in one step and with the same mode and owner.
"""

import gzip
import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lumos_core.data.catalog import Catalog
from lumos_core.data.interactions import check_known_items, read_interactions
from lumos_core.data.layout import node_files
from lumos_core.data.node_folder import to_sequences
from lumos_core.data.prepared_folder import NODE_FILE, NodeFacts
from lumos_core.data.reading.table_files import Table, without_records
from lumos_core.data.rewriting import prefix, rewritten, take_over
from lumos_core.data.sequences import MIN_HISTORY, Sequences
from lumos_core.errors import DataError, NewerFileError

GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Removal:
    """What a node's data are, and what of them is to be removed.

    Attributes:
        folder: the node's data folder.
        path: the file of interactions itself, if its name in the folder is a symbolic link.
        table: its rows.
        gone: a flag per row: whether it is of a user who is to be removed.
        found: ids of users who are to be removed and have rows.
        catalog: the node's catalog.
        staying: histories of the users who stay and are long enough to be trained with.
    """

    folder: Path
    path: Path
    table: Table
    gone: pl.Series
    found: frozenset[str]
    catalog: Catalog
    staying: Sequences

    @property
    def interactions(self) -> int:
        """How many rows are removed."""
        return int(self.gone.sum())

    def write(self) -> None:
        """Write the file without these users; nothing is done if none of them has a row.

        Raises:
            DataError: the file has changed since it was read, or cannot be written.
        """
        if not self.found:
            return
        self._check_unchanged()
        with rewritten(self.path) as fresh:
            self._write_to(fresh)
            self._compare(fresh)
        renew_facts(self.folder, self.table.frame.filter(~self.gone))

    def _check_unchanged(self) -> None:
        """Rows that came since the file was read must not be lost."""
        if not read_interactions(self.path, own=True).frame.equals(self.table.frame):
            raise DataError(
                f"{self.path}: the file has changed since it was read, so nothing was removed; "
                "give the same command again"
            )

    def _write_to(self, fresh: Path) -> None:
        if self.table.format == "parquet":
            pl.read_parquet(self.path).filter(~self.gone).write_parquet(fresh)
        else:
            text = without_records(self.table, self.gone)
            with self.path.open("rb") as file:
                packed = file.read(2) == GZIP_MAGIC
            fresh.write_bytes(gzip.compress(text) if packed else text)

    def _compare(self, fresh: Path) -> None:
        """Refuse a new file that would not hold exactly the rows that are to stay."""
        try:
            staying = self.table.frame.filter(~self.gone)
            same = read_interactions(fresh, own=True).frame.equals(staying)
        except DataError:
            same = False
        if not same:
            raise DataError(
                f"{self.path}: without these users, it would not be read as the same rows of the "
                "others, so it was left as it is; remove the rows yourself, then use "
                "'lumos node forget --derived'"
            )


def removal_of(folder: Path, users: Collection[str]) -> Removal:
    """What removing users from a node's data would mean; nothing is changed.

    Args:
        folder: the node's data folder.
        users: their ids; those without a row are not in ``found``.

    Raises:
        DataError: as :func:`~lumos_core.data.node_folder.read_node`, or nobody would be left to
            train with, or the file cannot be replaced.
    """
    files = node_files(folder)
    catalog = Catalog.read(files.catalog)
    path = files.interactions.resolve()
    table = read_interactions(path, own=True)
    check_known_items(table, pl.Series(catalog.item_ids), str(files.catalog))
    ids = table.frame["user_id"]
    gone = ids.is_in(sorted(users))
    found = frozenset(ids.filter(gone).to_list())
    staying = table.frame.filter(~gone).filter(pl.len().over("user_id") >= MIN_HISTORY)
    if staying.is_empty():
        raise DataError(
            f"{path}: without {'this user' if len(users) == 1 else 'these users'} no user with "
            f"{MIN_HISTORY} or more interactions is left, and a node cannot train without one; "
            "nothing was removed. To take the node out altogether, end it, delete its data and "
            "state folders, and ask who runs the server for 'lumos deploy remove-node'"
        )
    if found and not os.access(path.parent, os.W_OK | os.X_OK):
        raise DataError(
            f"{path}: this account may not replace files in {path.parent}; run the command as the "
            "owner of that folder, or as root"
        )
    return Removal(folder, path, table, gone, found, catalog, to_sequences(staying, catalog))


def leftovers(path: Path) -> list[Path]:
    """Temporary files and folders beside a file, of processes that were killed while they wrote
    it."""
    start = prefix(path)
    return sorted(p for p in path.parent.glob(f"{start}*") if p.name != f"{start}lock")


def delete(path: Path) -> None:
    """Delete a file or a folder; nothing happens if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def renew_facts(folder: Path, interactions: pl.DataFrame) -> None:
    """Renew the counts in ``node.json``, if there is one; they are for people.

    Args:
        folder: the node's data folder.
        interactions: all of the node's.
    """
    path = folder / NODE_FILE
    with suppress(NewerFileError):
        if path.is_file() and (facts := NodeFacts.read_if_sound(path)) is not None:
            users, rows = interactions["user_id"].n_unique(), len(interactions)
            renewed = facts.model_copy(update={"users": users, "interactions": rows})
            if renewed != facts:
                before = path.stat()
                renewed.write(path)
                take_over(before, path)
