"""Which files of a folder are tables, and which of them hold a node's data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from lumos_core.errors import DataError

CATALOG_FILE = "catalog.tsv"
CATALOG_VERSIONS = "catalog.versions.json"
"""The versions of the ``catalog.tsv`` beside it; optional."""
ARTEFACT_FILE = "catalog.safetensors"
"""What a language model says about the titles of the ``catalog.tsv`` beside it; optional."""
PREPARE_NODE = (
    "lumos prepare LOG --items catalog.tsv --out mine --nodes 1 --k-core 0 --keep-all-items"
)
"""Makes a node's folder, ``mine/node-0``, with exactly the items of the run's catalog in it."""
DATASET_FILE = "dataset.json"
"""Only the folder that ``lumos prepare`` writes for all nodes has it."""
TableFormat = Literal["tsv", "csv", "jsonl", "parquet"]

FORMATS: Mapping[str, TableFormat] = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".inter": "tsv",  # RecBole's atomic files
    ".item": "tsv",
}

OTHER_FORMATS: Mapping[str, str] = {
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), "save the sheet as CSV"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst"), "unpack it"),
    **dict.fromkeys(
        (".pkl", ".pickle", ".npy", ".npz", ".h5", ".hdf5", ".mat", ".pt", ".feather", ".arrow",
         ".avro", ".orc", ".db", ".sqlite", ".sqlite3", ".dta", ".sav", ".rds", ".rdata",
         ".xml", ".html", ".htm", ".pdf", ".py", ".safetensors"),
        "export it as CSV or Parquet",
    ),
}  # fmt: skip
"""Suffixes of files that are no tables for LUMOS, and what to do. A file with any other suffix, or
none, is text: ``u.data``, ``ratings.dat``."""


def shared_state(folder: Path) -> Path:
    """The folder of a prepared folder in which experiments keep the views of all its users, for
    comparisons that deal users out to nodes anew (``lumos compare --partition drawn``)."""
    return folder / "views"


def artefact_beside(catalog: Path | None) -> Path | None:
    """The catalog artefact beside a ``catalog.tsv``; for a node's folder in a prepared folder, also
    the one of the prepared folder. None if there is none.

    Args:
        catalog: the file; None for a catalog that was not read from one.
    """
    if catalog is None:
        return None
    folder = catalog.resolve().parent
    folders = [folder]
    if (folder.parent / DATASET_FILE).is_file():
        folders.append(folder.parent)
    found = (place / ARTEFACT_FILE for place in folders)
    return next((path for path in found if path.exists()), None)


class NodeFiles(NamedTuple):
    """What a node's data folder holds."""

    interactions: Path
    catalog: Path


def node_files(folder: Path) -> NodeFiles:
    """The data of a node.

    Raises:
        DataError: there is no such folder, or not exactly one file of interactions.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder, expected one with {CATALOG_FILE} and interactions.tsv; "
            "'lumos prepare' makes it"
        )
    return NodeFiles(find_table(folder, "interactions"), folder / CATALOG_FILE)


def find_table(folder: Path, stem: str) -> Path:
    """The one file of a folder named ``stem`` with the suffix of a table (``.gz`` allowed).

    Raises:
        DataError: if there is none or more than one.
    """
    suffixes = [suffix + gz for suffix in FORMATS for gz in ("", ".gz")]
    found = [path for suffix in suffixes if (path := folder / f"{stem}{suffix}").is_file()]
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found) or "none"
    raise DataError(
        f"{folder}: found {names}, expected exactly one {stem} file "
        f"({stem}.tsv, .csv, .jsonl or .parquet)"
    )
