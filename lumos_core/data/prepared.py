"""The folder that ``lumos prepare`` writes: a catalog for all, a data folder for every node.

::

    catalog.tsv     item_id, title; row order is index order
    dataset.json    what it was made of: counts, seed, filters, catalog fingerprint
    node-0/ …       catalog.tsv (the same), interactions.tsv (chronological per user), node.json
"""

import filecmp
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl

from lumos_core.data.catalog import Catalog
from lumos_core.data.files import check_file
from lumos_core.data.folder import CATALOG_FILE
from lumos_core.data.node_data import read_node
from lumos_core.data.sequences import Sequences
from lumos_core.errors import DataError
from lumos_core.files import write_atomically

DATASET_FILE = "dataset.json"
NODE_FILE = "node.json"
INTERACTIONS_FILE = "interactions.tsv"


def load_prepared(folder: Path) -> tuple[Catalog, list[Sequences]]:
    """The catalog and every node's histories (for centralised training and experiments).

    Raises:
        DataError: naming the file that is missing, malformed or does not belong to the others.
    """
    catalog = Catalog.read(folder / CATALOG_FILE)
    parts = []
    for node in node_folders(folder):
        own, sequences = read_node(node)
        if own.fingerprint != catalog.fingerprint:
            raise DataError(
                f"{node / CATALOG_FILE}: differs from {folder / CATALOG_FILE}, expected the same "
                "catalog in all nodes; prepare the data again"
            )
        parts.append(sequences)
    return catalog, parts


def interactions_digest(folder: Path) -> str:
    """SHA-256 of who met what and which node has it: results of experiments belong to it.

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
    nodes = read_dataset_json(folder).get("nodes")
    if not isinstance(nodes, int) or nodes < 1:
        raise DataError(
            f"{folder / DATASET_FILE}: key 'nodes': found {nodes!r}, expected a whole number"
        )
    return [folder / f"node-{n}" for n in range(nodes)]


def read_dataset_json(folder: Path) -> dict[str, Any]:
    """What ``dataset.json`` of a prepared folder says.

    Raises:
        DataError: if it is missing or not a JSON object.
    """
    path = folder / DATASET_FILE
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; 'lumos prepare' makes one")
    if not path.is_file():
        raise DataError(f"{folder}: no {DATASET_FILE}, so not a folder that 'lumos prepare' wrote")
    try:
        content = json.loads(check_file(path).read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); prepare the data again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: found {type(content).__name__}, expected a JSON object")
    return content


def write_prepared(
    out: Path,
    catalog: Catalog,
    node_interactions: list[pl.DataFrame],
    facts: Mapping[str, Any],
    *,
    force: bool,
) -> bool:
    """Write a prepared folder, all of it or nothing.

    Args:
        node_interactions: for every node ``user_id``, ``item_id``, ``timestamp``, in the order of
            the file.
        facts: content of ``dataset.json``; must say ``nodes``.
        force: replace another prepared folder.

    Returns:
        Whether ``out`` already held exactly this and was left alone.

    Raises:
        DataError: if ``out`` holds something else.
    """

    def write(folder: Path) -> None:
        catalog.write(folder / CATALOG_FILE)
        for n, interactions in enumerate(node_interactions):
            _write_node(folder / f"node-{n}", n, catalog, interactions)
        _write_json(folder / DATASET_FILE, facts)

    check_target(out)
    return _replace_folder(out, write, force)


def check_target(out: Path) -> None:
    """Refuse, before any work, a target that ``lumos prepare`` must not touch even by force.

    Raises:
        DataError: if ``out`` is a file or a non-empty folder that LUMOS did not write.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: found a file, expected a new folder; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / DATASET_FILE).is_file():
        raise DataError(
            f"{out}: the folder is not empty and no prepared data; choose another --out"
        )


def _write_node(folder: Path, n: int, catalog: Catalog, interactions: pl.DataFrame) -> None:
    catalog.write(folder / CATALOG_FILE)
    interactions.write_csv(folder / INTERACTIONS_FILE, separator="\t", quote_style="never")
    facts = {
        "node": n,
        "users": interactions["user_id"].n_unique(),
        "interactions": len(interactions),
        "catalog-fingerprint": catalog.fingerprint,
    }
    _write_json(folder / NODE_FILE, facts)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


def _replace_folder(out: Path, write: Callable[[Path], None], force: bool) -> bool:
    out = out.resolve()
    fresh = out.with_name(f".{out.name}.{uuid4().hex}")
    retired = out.with_name(f".{out.name}.{uuid4().hex}")
    try:
        fresh.mkdir(parents=True)
        write(fresh)
        if _holds(out, fresh):
            return True
        if out.is_dir() and any(out.iterdir()):
            if not force:
                raise DataError(
                    f"{out}: holds other prepared data; choose another --out, or replace it, with "
                    "what its nodes keep there, by --force"
                )
            out.rename(retired)
        fresh.rename(out)
        shutil.rmtree(retired, ignore_errors=True)
        return False
    except OSError as error:
        raise DataError(f"{out}: cannot write the prepared data ({error.strerror})") from error
    finally:
        if retired.is_dir() and not out.exists():
            retired.rename(out)
        shutil.rmtree(fresh, ignore_errors=True)


def _holds(out: Path, fresh: Path) -> bool:
    """Whether ``out`` has every file of ``fresh``; a node's own state may lie beside them."""
    files = [path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()]
    same = (
        (out / path).is_file() and filecmp.cmp(out / path, fresh / path, shallow=False)
        for path in files
    )
    return all(same)
