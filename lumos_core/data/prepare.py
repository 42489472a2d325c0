"""Turns a published data set into a prepared folder: clean, filter, distribute, write."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from lumos_core.data.catalog import Catalog
from lumos_core.data.catalog_versions import Lineage
from lumos_core.data.domains import Domain
from lumos_core.data.filtering import Dedup, codes, core_mask, drop_duplicates
from lumos_core.data.importers.detect import AUTO, load_source
from lumos_core.data.importers.raw_log import RawLog
from lumos_core.data.interactions import check_known_items
from lumos_core.data.node_folder import chronological
from lumos_core.data.partition import Partition, partition_users
from lumos_core.data.prepared_folder import DatasetFacts, check_target, write_prepared
from lumos_core.data.reading.columns import Columns
from lumos_core.data.reading.text_files import shown
from lumos_core.data.reading.title_text import clean_title, unquoted
from lumos_core.data.sequences import MIN_HISTORY
from lumos_core.errors import DataError

STEPS = ("reading", "filtering", "distributing", "writing")
"""The steps of :func:`prepare`, in order."""
_MANY = 4  # items of the same title that are worth a word
UnknownItems = Literal["auto", "error", "drop", "keep"]


@dataclass(frozen=True)
class Dropped:
    """What preparing left out."""

    unknown_items: int = 0  # interactions with items that are not in the list of items
    duplicates: int = 0  # interactions
    short_users: int = 0  # users who had too few interactions to begin with
    core_users: int = 0  # users who had enough before the filter removed rare items
    interactions: int = 0  # those of all these users, and those with rare items
    items: int = 0  # items of the list that are in no history, or in none any more


@dataclass(frozen=True)
class Rows:
    """What became of the rows of a log: ``read`` is the sum of all other numbers."""

    read: int
    kept: int
    missing: Mapping[str, int]  # rows without a user, item or time, by reason
    unknown_items: int
    duplicates: int
    short_users: int
    by_core: int
    least: int = MIN_HISTORY  # interactions of a user who is not short

    def dropped(self) -> dict[str, int]:
        """How many rows were dropped, by reason; only reasons that occurred."""
        reasons = {
            **self.missing,
            "with unknown items": self.unknown_items,
            "duplicates": self.duplicates,
            f"of users with fewer than {self.least}": self.short_users,
            "of rare users and items": self.by_core,
        }
        return {reason: count for reason, count in reasons.items() if count}

    def sentence(self) -> str:
        """``23,190 rows = 22,900 kept + 290 dropped (290 duplicates)``."""
        dropped = self.dropped()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        text = f"{self.read:,} rows = {self.kept:,} kept + {sum(dropped.values()):,} dropped"
        return f"{text} ({reasons})" if reasons else text


@dataclass(frozen=True)
class PreparedDataset:
    """What ``lumos prepare`` wrote, in numbers."""

    folder: Path
    reused: bool  # the folder already held exactly this
    name: str
    seed: int
    k_core: int
    users: int
    items: int
    interactions: int
    lengths: tuple[int, float, float, int]  # of histories: least, median, mean, most
    node_users: tuple[int, ...]
    node_interactions: tuple[int, ...]
    fingerprint: str  # of the catalog
    domain: str | None
    titles: str  # where they are from, in words
    dropped: Dropped
    rows: Rows
    columns: dict[str, str]  # of the log: meaning -> name in the file
    warnings: tuple[str, ...]

    @property
    def density(self) -> float:
        """Interactions over users x items."""
        return self.interactions / (self.users * self.items)


def prepare(
    source: Path,
    out: Path,
    *,
    nodes: int = 3,
    seed: int = 0,
    k_core: int = 5,
    min_interactions: int | None = None,
    source_format: str = AUTO,
    items: Path | None = None,
    columns: Columns | None = None,
    dedup: Dedup = "exact",
    unknown_items: UnknownItems = "auto",
    partition: Partition = "uniform",
    keep_all_items: bool = False,
    impression_clicks: bool = False,
    name: str = "",
    domain: Domain | None = None,
    force: bool = False,
    on_step: Callable[[int], None] = lambda done: None,
) -> PreparedDataset:
    """Turn a data set into a catalog and one data folder per node.

    Args:
        source: a folder or file in one of the formats (see :func:`load_source`).
        out: the folder to write: new, empty, or already holding the same.
        nodes: number of nodes; every user belongs to exactly one, drawn by ``seed``.
        k_core: keep the part of the log in which every user and item has at least this many
            interactions; 0 filters no items.
        min_interactions: interactions that a user must have, whatever ``k_core`` says of items; by
            default ``k_core``, and 3 at least: leave-one-out needs as many. Shorter histories are
            for runs with another ``evaluation``; others leave them out when they read the data.
        dedup: see :func:`drop_duplicates`.
        unknown_items: what to do with interactions whose item is not in the list of items; "keep"
            takes the id as title; "auto" is "drop" if ``items`` is a run's catalog, "error" for
            other tables and RecBole, "keep" for Amazon and MIND.
        keep_all_items: keep items in the catalog that nobody has in a history; a run's catalog is
            always taken whole.
        name: name of the data set; default: of the source.
        domain: what the items are; default: what the importer knows about them, if anything.
        force: replace another prepared folder.
        on_step: called with how many of :data:`STEPS` are done.

    Raises:
        DataError: naming file and line, or the option that could have no effect; then nothing has
            been written.
    """
    if k_core < 0:
        raise DataError(f"k-core = {k_core}, expected 0 (off) or more")
    if min_interactions is not None and min_interactions < 1:
        raise DataError(f"min-interactions = {min_interactions}, expected at least 1")
    if nodes < 1:
        raise DataError(f"nodes = {nodes}, expected at least 1")
    check_target(out)
    log = load_source(
        source,
        source_format,
        items=items,
        columns=columns,
        impression_clicks=impression_clicks,
    )
    on_step(1)
    known, unknown, told = _resolve_unknown(log, unknown_items)
    unique = drop_duplicates(known, dedup, file_order=bool(columns and columns.file_order))
    short = MIN_HISTORY if min_interactions is None else min_interactions
    least = max(k_core, MIN_HISTORY) if min_interactions is None else min_interactions
    kept = chronological(_core(unique, least, k_core))
    if kept.is_empty():
        raise DataError(
            f"{log.interactions.path}: none of {len(known)} interactions is left by k-core = "
            f"{k_core} and at least {short} per user{_columns_taken(log)}; lower --k-core or give "
            "more data"
        )
    on_step(2)
    catalog, untitled, unlisted = _catalog(log, kept, keep_all_items or log.fixed)
    lineage = _lineage(log, catalog)
    parts = _distribute(kept, nodes, seed, partition)
    lengths = kept["user_id"].rle().struct.field("len").to_numpy()
    of_items = domain or log.domain or None
    facts = DatasetFacts(
        name=name or log.name,
        domain=of_items,
        seed=seed,
        nodes=nodes,
        partition=partition,
        k_core=k_core,
        dedup=dedup,
        users=len(lengths),
        items=len(catalog),
        interactions=len(kept),
        catalog_fingerprint=catalog.fingerprint,
    )
    rows = _rows(log, known, unique, kept, short)
    on_step(3)
    reused = write_prepared(out, lineage, parts, facts, force=force)
    on_step(4)
    return PreparedDataset(
        folder=out,
        reused=reused,
        name=facts.name,
        seed=seed,
        k_core=k_core,
        users=len(lengths),
        items=len(catalog),
        interactions=len(kept),
        lengths=(
            int(lengths.min()),
            float(np.median(lengths)),
            float(lengths.mean()),
            int(lengths.max()),
        ),
        node_users=tuple(part["user_id"].n_unique() for part in parts),
        node_interactions=tuple(len(part) for part in parts),
        fingerprint=catalog.fingerprint,
        dropped=_dropped(log, known, unique, kept, unknown, catalog, short),
        rows=rows,
        columns=dict(log.interactions.columns),
        domain=of_items,
        titles=_titles_from(log, untitled == len(catalog)),
        warnings=(
            *log.interactions.warnings,
            *log.warnings,
            *told,
            *_title_warnings(log, untitled, unlisted, len(catalog)),
            *_equal_titles(log, catalog),
        ),
    )


def _resolve_unknown(
    log: RawLog, choice: UnknownItems
) -> tuple[pl.DataFrame, int, tuple[str, ...]]:
    """The interactions to keep, how many were dropped because their item is unknown, and warnings
    about that."""
    frame = log.interactions.frame
    ids = log.items["item_id"]
    if choice != "auto" and not log.listed:
        raise DataError(
            f"--unknown-items {choice}: would have no effect, for there is no list of items; leave "
            "it out, or name the list with --items"
        )
    if choice == "keep" and log.fixed:
        raise DataError(
            f"--unknown-items keep: would add items to the run's catalog {log.items_source}, which "
            "no other node has; leave it out, or give the file another name than catalog.tsv"
        )
    known = frame.filter(pl.col("item_id").is_in(ids.implode()))
    _check_related(log, known)
    if choice == "error" or (choice == "auto" and log.complete and not log.fixed):
        check_known_items(log.interactions, ids, log.items_source)
    if choice != "drop" and not log.fixed:
        return frame, 0, ()
    dropped = len(frame) - len(known)
    return known, dropped, _drop_warnings(log, dropped if choice == "auto" else 0)


def _check_related(log: RawLog, known: pl.DataFrame) -> None:
    """Refuse a list that holds none of the log's items: its ids must be of another kind."""
    if known.is_empty() and len(log.interactions.frame):
        theirs, ours = log.items["item_id"], log.interactions.frame["item_id"]
        example = f", such as {shown(theirs[0])}," if len(theirs) else ""
        raise DataError(
            f"{log.interactions.path}: none of its items, such as {shown(ours[0])}, is among the "
            f"{len(theirs)}{example} of {log.items_source}; name the columns that belong together "
            "with --item-column (log) and --items-id-column (items), or another list with --items"
        )


def _drop_warnings(log: RawLog, dropped: int) -> tuple[str, ...]:
    if not dropped:
        return ()
    ids = log.interactions.frame["item_id"]
    unknown = ids.filter(~ids.is_in(log.items["item_id"].implode()))
    return (
        f"{dropped} interactions with {unknown.n_unique()} items that {log.items_source} lacks, "
        f"such as {shown(unknown[0])}, are left out",
    )


def _core(interactions: pl.DataFrame, least: int, k: int) -> pl.DataFrame:
    users, items = codes(interactions["user_id"]), codes(interactions["item_id"])
    return interactions.filter(core_mask(users, items, least, k))


def _catalog(log: RawLog, kept: pl.DataFrame, keep_all: bool) -> tuple[Catalog, int, int]:
    """The catalog in the order of the list of items, how many titles are really ids, and how many
    items are not in the list."""
    used = kept["item_id"].unique()
    unlisted = used.filter(~used.is_in(log.items["item_id"].implode())).sort()
    listed = log.items if keep_all else log.items.filter(pl.col("item_id").is_in(used.implode()))
    ids = [*listed["item_id"], *unlisted]
    titles = [*listed["title"], *("" for _ in unlisted)]
    untitled = sum(not title for title in titles)
    stand_ins = (unquoted(clean_title(item)) for item in ids)
    filled = (title or own for title, own in zip(titles, stand_ins, strict=True))
    return Catalog(tuple(ids), tuple(filled)), untitled, len(unlisted)


def _lineage(log: RawLog, catalog: Catalog) -> Lineage:
    """The versions before a catalog: those of the run's, if it is that, and none otherwise."""
    if not log.fixed:
        return Lineage.of(catalog)
    return replace(Lineage.of(Catalog.read(Path(log.items_source))), catalog=catalog)


def _distribute(kept: pl.DataFrame, nodes: int, seed: int, scheme: Partition) -> list[pl.DataFrame]:
    owners = partition_users(kept["user_id"].n_unique(), nodes, seed, scheme)
    owner = owners[codes(kept["user_id"])]
    return [kept.filter(pl.Series(owner == n)) for n in range(nodes)]


def _rows(
    log: RawLog, known: pl.DataFrame, unique: pl.DataFrame, kept: pl.DataFrame, least: int
) -> Rows:
    read = len(log.interactions.frame) + sum(log.interactions.missing.values())
    lengths = unique.select(pl.len().over("user_id")).to_series()
    short = int((lengths < least).sum())
    rows = Rows(
        read=read,
        kept=len(kept),
        missing=log.interactions.missing,
        unknown_items=len(log.interactions.frame) - len(known),
        duplicates=len(known) - len(unique),
        short_users=short,
        by_core=len(unique) - len(kept) - short,
        least=least,
    )
    assert rows.read == rows.kept + sum(rows.dropped().values())
    return rows


def _dropped(
    log: RawLog,
    known: pl.DataFrame,
    unique: pl.DataFrame,
    kept: pl.DataFrame,
    unknown: int,
    catalog: Catalog,
    least: int,
) -> Dropped:
    counts = unique["user_id"].value_counts()["count"]
    short = int((counts < least).sum())
    unlisted = sum(1 for _ in set(catalog.item_ids).difference(log.items["item_id"]))
    return Dropped(
        unknown_items=unknown,
        duplicates=len(known) - len(unique),
        short_users=short,
        core_users=len(counts) - short - kept["user_id"].n_unique(),
        interactions=len(unique) - len(kept),
        items=len(log.items) - (len(catalog) - unlisted),
    )


def _title_warnings(log: RawLog, untitled: int, unlisted: int, items: int) -> Sequence[str]:
    if not untitled or (log.warnings and untitled == items):  # reading warned: no item has a title
        return ()
    text = f"{untitled} of {items} items have no title in {log.items_source}; their ids stand in"
    if unlisted:
        text += (
            f", which tell the language model nothing; --unknown-items drop leaves out the "
            f"{unlisted} that are not listed there"
        )
    return (text,)


def _columns_taken(log: RawLog) -> str:
    """The columns taken for users and items: a wrong one leaves nothing behind."""
    names = log.interactions.columns
    if not names:
        return ""
    ids = log.interactions.frame
    return (
        f" ({ids['user_id'].n_unique()} users from {names['user_id']!r}, "
        f"{ids['item_id'].n_unique()} items from {names['item_id']!r}; --user-column and "
        "--item-column name others)"
    )


def _titles_from(log: RawLog, untitled: bool) -> str:
    if untitled:
        return "item ids stand in for titles"
    column = f"{log.title!r} of " if log.title else ""
    return f"titles from {column}{log.items_source}"


def _equal_titles(log: RawLog, catalog: Catalog) -> tuple[str, ...]:
    """A warning if most titles are the same: that column is none of titles."""
    title, count = Counter(catalog.titles).most_common(1)[0]
    if count < _MANY or 2 * count <= len(catalog):
        return ()
    return (
        f"{count} of {len(catalog)} items have the same title in {log.items_source}, "
        f"{shown(title)}, which tells the language model nothing; name another column with "
        "--title-column, or another list with --items",
    )
