"""The folder that ``lumos prepare`` writes: a catalog for all, a data folder for every node.

::

    catalog.tsv     item_id, title; row order is index order
    catalog.versions.json   the versions before it, if it is a run's catalog that has some
    dataset.json    what it was made of: counts, seed, filters, catalog fingerprint
    node-0/ …       the catalog (the same), interactions.tsv (chronological per user), node.json
"""

import errno
import filecmp
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar
from uuid import uuid4

import polars as pl
from pydantic import ConfigDict, Field

from lumos_core.data.catalog import Catalog
from lumos_core.data.catalog_versions import Lineage
from lumos_core.data.domains import NOUNS
from lumos_core.data.layout import CATALOG_FILE, DATASET_FILE
from lumos_core.data.node_folder import read_node
from lumos_core.data.reading.text_files import check_file
from lumos_core.data.sequences import MIN_HISTORY, Sequences
from lumos_core.errors import DataError, reason_of
from lumos_core.safe_files import JsonFile, write_atomically

NODE_FILE = "node.json"
INTERACTIONS_FILE = "interactions.tsv"
_OURS = ".lumos-prepare-"


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Facts(JsonFile):
    model_config = ConfigDict(alias_generator=_kebab)
    repair: ClassVar[str] = "prepare the data again"


class DatasetFacts(_Facts):
    """``dataset.json``: what a prepared folder was made of. Only ``nodes`` is needed to read it.

    Attributes:
        name: of the data set.
        domain: what the items are, a key of :data:`~lumos_core.data.domains.NOUNS`; None if nobody
            knows.
        seed: by which users were given to nodes.
        nodes: how many there are.
        partition: how users were given to nodes.
        k_core, dedup: filters, as options of ``lumos prepare``.
        users, items, interactions: that are left.
        catalog_fingerprint: of the catalog.
    """

    name: str = ""
    domain: str | None = None
    seed: int = 0
    nodes: Annotated[int, Field(ge=1)]
    partition: str = ""
    k_core: int = 0
    dedup: str = ""
    users: int = 0
    items: int = 0
    interactions: int = 0
    catalog_fingerprint: str = ""


class NodeFacts(_Facts):
    """``node.json``: what a node's folder holds.

    Attributes:
        node: its number.
        users, interactions: how many it has.
        domain: as in :class:`DatasetFacts`.
        catalog_fingerprint: of the catalog.
    """

    node: int = 0
    users: int = 0
    interactions: int = 0
    domain: str | None = None
    catalog_fingerprint: str = ""


def load_prepared(folder: Path, min_history: int = MIN_HISTORY) -> tuple[Catalog, list[Sequences]]:
    """The catalog and every node's histories (for centralised training and experiments).

    Args:
        folder: a prepared folder.
        min_history: interactions that a user must have, as for ``read_node``.

    Raises:
        DataError: naming the file that is missing, malformed or does not belong to the others.
    """
    nodes = node_folders(folder)  # first: the folder may be a data set as it was published
    catalog = Catalog.read(folder / CATALOG_FILE)
    parts = []
    for node in nodes:
        own, sequences = read_node(node, min_history)
        if own.fingerprint != catalog.fingerprint:
            raise DataError(
                f"{node / CATALOG_FILE}: differs from {folder / CATALOG_FILE}, expected the same "
                "catalog in all nodes; prepare the data again"
            )
        parts.append(sequences)
    return catalog, parts


def interactions_digest(folder: Path) -> str:
    """SHA-256 of all interactions and their distribution over nodes, to label results with.

    Raises:
        DataError: if it is not a prepared folder, or a node's file is missing.
    """
    digest = hashlib.sha256()
    for node in node_folders(folder):
        content = check_file(node / INTERACTIONS_FILE).read_bytes()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def node_folders(folder: Path) -> list[Path]:
    """The data folders of all nodes of a prepared folder, in the order of their numbers.

    Raises:
        DataError: if it is not a prepared folder.
    """
    return [folder / f"node-{n}" for n in range(read_dataset_facts(folder).nodes)]


def read_dataset_facts(folder: Path) -> DatasetFacts:
    """What ``dataset.json`` of a prepared folder says.

    Raises:
        DataError: if it is missing or damaged.
        NewerFileError: a newer LUMOS wrote it.
    """
    path = folder / DATASET_FILE
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; 'lumos prepare' makes one")
    if not path.is_file():
        raise DataError(
            f"{folder}: no {DATASET_FILE}, so not a folder that 'lumos prepare' wrote; "
            "it makes one of a data set: lumos prepare SOURCE --out FOLDER"
        )
    return DatasetFacts.read(check_file(path))


def write_prepared(
    out: Path,
    lineage: Lineage,
    node_interactions: list[pl.DataFrame],
    facts: DatasetFacts,
    *,
    force: bool,
) -> bool:
    """Write a prepared folder, all of it or nothing.

    Args:
        lineage: the catalog and the versions before it, which each node gets as well: so it knows
            models of these versions.
        node_interactions: for every node ``user_id``, ``item_id``, ``timestamp``, in the order of
            the file.
        facts: content of ``dataset.json``.
        force: replace another prepared folder.

    Returns:
        Whether ``out`` already held exactly this and was left alone.

    Raises:
        DataError: if ``out`` holds something else.
    """

    def write(folder: Path) -> None:
        _write_catalog(folder, lineage)
        for n, interactions in enumerate(node_interactions):
            _write_node(folder / f"node-{n}", n, lineage, interactions, facts.domain)
        facts.write(folder / DATASET_FILE)

    check_target(out)
    return _replace_folder(out, write, force)


def check_target(out: Path) -> None:
    """Refuse, before any work, a target that ``lumos prepare`` must not touch even by force.

    Raises:
        DataError: if ``out`` is a file or a non-empty folder that LUMOS did not write.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: found a file, expected a new folder; choose another --out")
    if out.is_dir() and _content(out) and not (out / DATASET_FILE).is_file():
        raise DataError(
            f"{out}: the folder is not empty and no prepared data; choose another --out"
        )


def prepared_noun(folder: Path) -> str | None:
    """The words by which a prompt calls a history of these data (``llm-noun``); None if unknown.

    Args:
        folder: a prepared folder, or the folder of one node.

    Raises:
        DataError: the file that says it is damaged.
        NewerFileError: a newer LUMOS wrote it.
    """
    dataset, node = folder / DATASET_FILE, folder / NODE_FILE
    if dataset.is_file():
        return _noun(dataset, DatasetFacts.read(check_file(dataset)).domain)
    if node.is_file():
        return _noun(node, NodeFacts.read(check_file(node)).domain)
    return None


def _noun(path: Path, domain: str | None) -> str | None:
    for known, noun in NOUNS.items():
        if known == domain:
            return noun
    if domain is None:
        return None
    raise DataError(
        f"{path}: key 'domain': found {domain!r}, expected one of {', '.join(NOUNS)}; "
        "prepare the data again with --domain"
    )


def _write_catalog(folder: Path, lineage: Lineage) -> None:
    if len(lineage.versions) > 1:
        lineage.write(folder / CATALOG_FILE)
    else:
        lineage.catalog.write(folder / CATALOG_FILE)


def _write_node(
    folder: Path, n: int, lineage: Lineage, interactions: pl.DataFrame, domain: str | None
) -> None:
    _write_catalog(folder, lineage)
    interactions.write_csv(folder / INTERACTIONS_FILE, separator="\t", quote_style="never")
    NodeFacts(
        node=n,
        users=interactions["user_id"].n_unique(),
        interactions=len(interactions),
        domain=domain,
        catalog_fingerprint=lineage.catalog.fingerprint,
    ).write(folder / NODE_FILE)


def _replace_folder(out: Path, write: Callable[[Path], None], force: bool) -> bool:
    out = out.resolve()
    fresh = _workplace(out) / f"{_OURS}{uuid4().hex}"
    try:
        fresh.mkdir(parents=True)
        write(fresh)
        if _same_tables(out, fresh):
            _renew_facts(out, fresh)
            return True
        old = _content(out) if out.is_dir() else []
        if old and not force:
            raise DataError(
                f"{out}: holds other prepared data; choose another --out, or replace it, with "
                "what its nodes keep there, by --force"
            )
        _put(fresh, out, bool(old))
        return False
    except OSError as error:
        raise DataError(f"{out}: cannot write the prepared data ({reason_of(error)})") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _workplace(out: Path) -> Path:
    """Where the new folder is made: beside the old one, whose place it then takes in one step; but
    within it where it is a mount point, or nothing can be written beside it."""
    if out.is_dir() and (out.is_mount() or not os.access(out.parent, os.W_OK | os.X_OK)):
        return out
    return out.parent


def _put(fresh: Path, out: Path, replaces: bool) -> None:
    """The new folder in the place of the old one, which stays whole if that fails."""
    if fresh.parent == out:
        _exchange(fresh, out)
        return
    retired = fresh.with_name(f"{_OURS}{uuid4().hex}")
    try:
        if replaces:
            out.rename(retired)
        fresh.rename(out)
    except OSError as error:
        if retired.is_dir() and not out.exists():
            retired.rename(out)
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        _exchange(fresh, out)  # a mount point that does not look like one: a folder bound to it
    shutil.rmtree(retired, ignore_errors=True)


def _exchange(fresh: Path, out: Path) -> None:
    """The content of the new folder in the place of the old one's, where ``out`` itself cannot be
    replaced. What says that the data are complete is moved last."""
    retired = out / f"{_OURS}{uuid4().hex}"
    retired.mkdir()
    moved: list[Path] = []
    try:
        for path in _content(out):
            path.rename(retired / path.name)
        for path in sorted(fresh.iterdir(), key=lambda path: path.name == DATASET_FILE):
            moved.append(out / path.name)
            shutil.move(path, moved[-1])  # by copying, if it comes from another file system
    except BaseException:
        for path in moved:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for path in list(retired.iterdir()):
            path.rename(out / path.name)
        retired.rmdir()
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _content(folder: Path) -> list[Path]:
    """What a folder holds, without what is left of attempts that were killed, and without what a
    new file system brings along."""
    return [
        path
        for path in folder.iterdir()
        if path.name != "lost+found" and not path.name.startswith(_OURS)
    ]


def _same_tables(out: Path, fresh: Path) -> bool:
    """Whether ``out`` has the catalog and the interactions of ``fresh``, and no other node's; a
    node's own state may lie beside them."""
    theirs, ours = (
        {
            path.relative_to(folder)
            for name in (CATALOG_FILE, INTERACTIONS_FILE)
            for path in (folder / name, *folder.glob(f"node-*/{name}"))
            if path.is_file()
        }
        for folder in (out, fresh)
    )
    return theirs == ours and all(
        filecmp.cmp(out / path, fresh / path, shallow=False) for path in ours
    )


def _renew_facts(out: Path, fresh: Path) -> None:
    """What is said about the tables may be of an older version, or have changed by itself."""
    for path in fresh.rglob("*.json"):
        place = out / path.relative_to(fresh)
        content = path.read_bytes()
        if not place.is_file() or place.read_bytes() != content:
            write_atomically(place, content)
