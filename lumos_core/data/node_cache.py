"""A cache of a node's histories, so that the next process need not read the tables again.

A node starts a process for every message. Reading and checking tables would take it longer than
training a small model, and would need polars to be imported. So the histories are kept in the
node's state folder with a digest of the files they were read from, and are valid only for these.

A run trains on the same data in all of its rounds: what the node has read when it begins to take
part is its *snapshot*, which is kept with the name of the run until another run begins. Rows that
are ingested meanwhile, or a catalog that is replaced, enter with the next run.
"""

import hashlib
import io
import logging
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lumos_core import __version__
from lumos_core.data.catalog import Catalog
from lumos_core.data.forgotten_users import ForgottenUsers
from lumos_core.data.layout import CATALOG_FILE, NodeFiles, node_files
from lumos_core.data.reading.text_files import check_file
from lumos_core.data.sequences import MIN_HISTORY, Sequences
from lumos_core.errors import DataError
from lumos_core.safe_files import private_folder, replacing

KEPT, SNAPSHOT = "histories.npz", "snapshot.npz"
_DAMAGED = (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, DataError)

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
    forgotten = ForgottenUsers.of_node(state)
    key = _digest(files, min_history, forgotten)
    sequences = _load(state / KEPT, key)
    if sequences is not None:
        return Catalog.read(files.catalog), sequences
    from lumos_core.data.node_folder import read_node

    catalog, sequences = read_node(folder, min_history)
    sequences = _without(sequences, forgotten)
    try:
        _save(state / KEPT, {"key": key}, sequences)
    except OSError as error:  # e.g. a full disk: the next process is slower, but not wrong
        log.warning("histories could not be kept (%s)", type(error).__name__)
    return catalog, sequences


def read_snapshot(
    folder: Path, state: Path, run: str, min_history: int = MIN_HISTORY
) -> tuple[Catalog, Sequences] | None:
    """The data with which this node takes part in a run; None if it has not kept any.

    Args:
        folder: the node's data folder; its files are not read.
        state: its state folder.
        run: names the run.
        min_history: as for ``read_node``.
    """
    try:
        with np.load(state / SNAPSHOT, allow_pickle=False) as kept:
            if str(kept["key"]) != _of_run(run, min_history):
                return None
            ids, titles = _texts(kept["item_ids"]), _texts(kept["titles"])
            catalog = Catalog(ids, titles, folder / CATALOG_FILE)
            return catalog, _sequences(kept)
    except _DAMAGED:
        return None


def keep_snapshot(
    state: Path, run: str, catalog: Catalog, sequences: Sequences, min_history: int = MIN_HISTORY
) -> None:
    """Keep the data with which this node takes part in a run, whatever comes in meanwhile.

    Args:
        state: the node's state folder.
        run: names the run; its snapshot replaces that of the run before.
        catalog, sequences: the data.
        min_history: as for ``read_node``.

    Raises:
        OSError: the disk refuses it.
    """
    facts = {
        "key": _of_run(run, min_history),
        "item_ids": _bytes(catalog.item_ids),
        "titles": _bytes(catalog.titles),
    }
    _save(state / SNAPSHOT, facts, sequences)


def _of_run(run: str, min_history: int) -> str:
    return f"{__version__} {min_history} {run}"


def _without(sequences: Sequences, forgotten: ForgottenUsers) -> Sequences:
    """The histories without users who were forgotten, whose rows somebody has brought back."""
    gone = forgotten.among(sequences.user_ids)
    if not gone:
        return sequences
    log.warning("data: %d users who were forgotten are in them again, and left out", len(gone))
    staying = [u for u, user in enumerate(sequences.user_ids) if user not in gone]
    return replace(sequences.subset(staying), left_out=sequences.left_out)


def _digest(files: NodeFiles, min_history: int, forgotten: ForgottenUsers) -> str:
    """Digest of both files, and of all else that decides which histories are read from them."""
    others = sorted(forgotten.users.items())
    digest = hashlib.sha256(f"{__version__} {min_history} {others}".encode())
    for path in files:
        with check_file(path).open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _load(path: Path, key: str) -> Sequences | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                return None
            return _sequences(kept)
    except _DAMAGED:
        return None  # missing or damaged: the tables are read, and the histories kept again


def _sequences(kept: Mapping[str, Any]) -> Sequences:
    users, left_out = _texts(kept["user_ids"]), int(kept["left_out"])
    return Sequences(users, kept["items"], kept["offsets"], left_out, kept["times"])


def _texts(kept: npt.NDArray[np.uint8]) -> tuple[str, ...]:
    return tuple(kept.tobytes().decode().split("\n"))


def _bytes(texts: Iterable[str]) -> npt.NDArray[np.uint8]:
    """Ids or titles, which hold no line break."""
    return np.frombuffer("\n".join(texts).encode(), dtype=np.uint8)


def _save(path: Path, facts: Mapping[str, Any], sequences: Sequences) -> None:
    assert sequences.times is not None  # read_node gives them
    buffer = io.BytesIO()
    np.savez(
        buffer,
        **facts,
        times=sequences.times,
        user_ids=_bytes(sequences.user_ids),
        items=sequences.items,
        offsets=sequences.offsets,
        left_out=sequences.left_out,
    )
    private_folder(path.parent)
    with replacing(path, mode=0o600) as temporary:
        temporary.write_bytes(buffer.getvalue())
