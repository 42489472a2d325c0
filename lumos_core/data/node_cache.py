"""A node's histories as they were read last, so that the next process need not read them again.

A node has a process for every message. Reading and checking tables takes it longer than a small
model takes to train, and polars to import. What was read lies in the node's state folder under the
digest of the files that it was read from, and nothing else makes it valid.
"""

import hashlib
import io
import logging
import zipfile
from pathlib import Path

import numpy as np

from lumos_core import __version__
from lumos_core.data.catalog import Catalog
from lumos_core.data.layout import NodeFiles, node_files
from lumos_core.data.reading.text_files import check_file
from lumos_core.data.sequences import MIN_HISTORY, Sequences
from lumos_core.safe_files import private_folder, replacing

KEPT = "histories.npz"

log = logging.getLogger(__name__)


def read_kept_node(folder: Path, state: Path) -> tuple[Catalog, Sequences]:
    """As :func:`~lumos_core.data.node_folder.read_node`, from the state folder if nothing changed.

    Args:
        folder: the node's data folder.
        state: its state folder.

    Raises:
        DataError: as ``read_node``.
    """
    files = node_files(folder)
    key = _digest(files)
    sequences = _load(state / KEPT, key)
    if sequences is not None:
        return Catalog.read(files.catalog), sequences
    from lumos_core.data.node_folder import read_node

    catalog, sequences = read_node(folder)
    try:
        _save(state / KEPT, key, sequences)
    except OSError as error:  # a full disk: slower, not wrong
        log.warning("histories could not be kept (%s)", type(error).__name__)
    return catalog, sequences


def _digest(files: NodeFiles) -> str:
    """Of both files, and of whatever else decides what is read from them."""
    digest = hashlib.sha256(f"{__version__} {MIN_HISTORY}".encode())
    for path in files:
        with check_file(path).open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _load(path: Path, key: str) -> Sequences | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                return None
            users = kept["user_ids"].tobytes().decode().split("\n")  # an id lies on one line
            left_out = int(kept["left_out"])
            return Sequences(tuple(users), kept["items"], kept["offsets"], left_out)
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
        return None  # nothing, or damaged: it is read and kept again


def _save(path: Path, key: str, sequences: Sequences) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        key=key,
        user_ids=np.frombuffer("\n".join(sequences.user_ids).encode(), dtype=np.uint8),
        items=sequences.items,
        offsets=sequences.offsets,
        left_out=sequences.left_out,
    )
    private_folder(path.parent)
    with replacing(path, mode=0o600) as temporary:
        temporary.write_bytes(buffer.getvalue())
