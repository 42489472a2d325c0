"""A cache of a node's histories, so that the next process need not read the tables again.

A node starts a process for every message. Reading and checking tables would take it longer than
training a small model, and would need polars to be imported. So the histories are kept in the
node's state folder with a digest of the files they were read from, and are valid only for these.
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


def read_kept_node(
    folder: Path, state: Path, min_history: int = MIN_HISTORY
) -> tuple[Catalog, Sequences]:
    """As :func:`~lumos_core.data.node_folder.read_node`, from the state folder if nothing changed.

    Args:
        folder: the node's data folder.
        state: its state folder.
        min_history: as for ``read_node``.

    Raises:
        DataError: as ``read_node``.
    """
    files = node_files(folder)
    key = _digest(files, min_history)
    sequences = _load(state / KEPT, key)
    if sequences is not None:
        return Catalog.read(files.catalog), sequences
    from lumos_core.data.node_folder import read_node

    catalog, sequences = read_node(folder, min_history)
    try:
        _save(state / KEPT, key, sequences)
    except OSError as error:  # e.g. a full disk: the next process is slower, but not wrong
        log.warning("histories could not be kept (%s)", type(error).__name__)
    return catalog, sequences


def _digest(files: NodeFiles, min_history: int) -> str:
    """Digest of both files, and of all else that decides which histories are read from them."""
    digest = hashlib.sha256(f"{__version__} {min_history}".encode())
    for path in files:
        with check_file(path).open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _load(path: Path, key: str) -> Sequences | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                return None
            users = kept["user_ids"].tobytes().decode().split("\n")  # ids hold no line break
            left_out = int(kept["left_out"])
            times = kept["times"]
            return Sequences(tuple(users), kept["items"], kept["offsets"], left_out, times)
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
        return None  # missing or damaged: the tables are read, and the histories kept again


def _save(path: Path, key: str, sequences: Sequences) -> None:
    assert sequences.times is not None  # read_node gives them
    buffer = io.BytesIO()
    np.savez(
        buffer,
        times=sequences.times,
        key=key,
        user_ids=np.frombuffer("\n".join(sequences.user_ids).encode(), dtype=np.uint8),
        items=sequences.items,
        offsets=sequences.offsets,
        left_out=sequences.left_out,
    )
    private_folder(path.parent)
    with replacing(path, mode=0o600) as temporary:
        temporary.write_bytes(buffer.getvalue())
