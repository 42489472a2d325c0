"""The newest data and model of a node, read beside the ones in use and put in their place.

Every second the files are looked at. What has changed, and has then stayed the same for one more
look (so that nothing half copied is read), is read and checked while requests are answered from
what is in use. If it is sound, it takes the place of the old in one assignment: a request holds one
:class:`Served` from its beginning to its end and never sees half of each.

===========================================  =====================================================
found                                        what happens
===========================================  =====================================================
a sound model of the catalog                 it is used from the next request on
a broken one, or one of another catalog      refused in the log, by name; the old one goes on
no model any more (``lumos node forget``)    the old one is withdrawn: no answers until there is one
other histories                              they are used from the next request on
histories or a catalog that cannot be read   refused in the log; the old ones go on
===========================================  =====================================================
"""

import hashlib
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from lumos_core.data.catalog import Catalog, short_fingerprint
from lumos_core.data.layout import node_files
from lumos_core.data.node_folder import read_node
from lumos_core.data.sequences import Items, Sequences
from lumos_core.errors import DataError, LumosError, ModelError
from lumos_core.recommend.model_files import (
    KEPT_FINAL,
    KEPT_LATEST,
    ModelCard,
    kept_model,
    load_with_card,
    model_file_at,
    model_files_at,
)
from lumos_core.recommend.recommender import Recommender

log = logging.getLogger(__name__)

Signature = tuple[tuple[int, int, int] | None, ...]
"""Of each file its inode, size and time of the last change; None if it is not there."""


@dataclass(frozen=True, eq=False)
class Histories:
    """A node's catalog and users."""

    catalog: Catalog
    users: Sequences

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {user: row for row, user in enumerate(self.users.user_ids)}

    def of(self, user: str) -> Items | None:
        """The history of a user; None if the node has no interaction of them."""
        row = self._rows.get(user)
        return None if row is None else self.users[row]


@dataclass(frozen=True)
class ModelVersion:
    """Which model an answer is from.

    Attributes:
        digest: the beginning of the file's SHA-256.
        card: what the file says of itself.
        written: when the file was written, in seconds since 1970.
        path: the file.
    """

    digest: str
    card: ModelCard
    written: float
    path: Path

    @property
    def text(self) -> str:
        kind = "best model of a finished run" if self.card.final else "model of a run"
        return f"{kind}, round {self.card.round}, {self.digest}"


@dataclass(frozen=True)
class Served:
    """All that an answer is made of; never changed, only replaced.

    Attributes:
        histories: catalog and users.
        recommender: ranks with the model; None while there is no usable one.
        version: of the model; None as well then.
    """

    histories: Histories
    recommender: Recommender | None = None
    version: ModelVersion | None = None


@dataclass
class Counts:
    """How many models were put into use, refused and withdrawn since the service began."""

    loaded: int = 0
    refused: int = 0
    withdrawn: int = 0


class Newest:
    """What is in use, and the replacing of it.

    Args:
        data: the node's data folder.
        state: its state folder, with the models that it kept.
        model: exported folder, run folder or file to use instead of the kept models.
        include_seen: recommend items of the history as well.

    Raises:
        DataError: the data cannot be read.
        ModelError: ``model`` is given and cannot be used.
    """

    def __init__(
        self, data: Path, state: Path, model: Path | None = None, *, include_seen: bool = False
    ) -> None:
        self._data, self._state, self._model = data, state, model
        self._include_seen = include_seen
        self.counts = Counts()
        self._read = self._seen_data = self._data_now()
        self._histories = Histories(*read_node(data, min_history=1))
        self.served = Served(self._histories)
        self._loaded: tuple[Catalog, Path, Signature] | None = None
        self._seen_model = self._model_now()
        self._tried = (self._histories.catalog, self._seen_model)
        if model is None:
            self._try_model()
        else:
            self._use_model()

    def look(self) -> None:
        """Look at the files once, and read what has changed since the last time."""
        data, model = self._data_now(), self._model_now()
        settled_data, settled_model = data == self._seen_data, model == self._seen_model
        self._seen_data, self._seen_model = data, model
        if settled_data and data != self._read:
            self._read = data
            self._read_histories()
        catalog, tried = self._tried
        if self._histories.catalog is not catalog or (settled_model and model != tried):
            self._tried = (self._histories.catalog, model)
            self._try_model()
        elif self._histories.catalog is self.served.histories.catalog:
            self.served = replace(self.served, histories=self._histories)

    def watch(self, ended: threading.Event, seconds: float) -> None:
        """Look until ``ended`` is set. Whatever goes wrong, the next look is taken."""
        while not ended.wait(seconds):
            try:
                self.look()
            except Exception as error:  # a library may raise anything; the service must go on
                log.error("looking for a newer model failed", exc_info=error)

    # ------------------------------------------------------------ data
    def _read_histories(self) -> None:
        """Read the data again. If no item has changed, the catalog stays the same object."""
        try:
            catalog, users = read_node(self._data, min_history=1)
        except LumosError as error:  # its text may quote a user or an item
            log.error(
                "%s: changed, and cannot be used; the histories from before are. 'lumos recommend "
                "--data %s --user …' says what is wrong", self._data, self._data, exc_info=error,
            )  # fmt: skip
            return
        same = catalog.fingerprint == self._histories.catalog.fingerprint
        self._histories = Histories(self._histories.catalog if same else catalog, users)
        log.info("histories read again")

    def _data_now(self) -> Signature:
        try:
            return signature(node_files(self._data))
        except DataError:
            return ()

    # ------------------------------------------------------------ model
    def _try_model(self) -> None:
        try:
            self._use_model()
        except ModelError as error:  # its text names files and arrays, no user and no item
            self._refuse(str(error))
        except Exception as error:  # an encoder of a plug-in may raise anything
            self._refuse(f"{self._model or self._state}: cannot be used ({type(error).__name__})")

    def _refuse(self, reason: str) -> None:
        in_use = self.served.recommender is not None
        if any(self._model_now()):
            self.counts.refused += 1
            rest = "the one from before is used" if in_use else "none is used"
            log.error("model refused, %s: %s", rest, reason)
            return
        self.counts.withdrawn += in_use
        self.served, self._loaded = Served(self._histories), None
        log.warning("no model: %s", reason)

    def _use_model(self) -> None:
        """Load the model and put it, with the newest histories, into the place of the old."""
        catalog = self._histories.catalog
        path = model_file_at(self._model) if self._model else kept_model(self._state, catalog)
        loaded = (catalog, path, signature([path]))
        if loaded == self._loaded:
            self.served = replace(self.served, histories=self._histories)
            return
        started = time.monotonic()
        model, card = load_with_card(path, catalog)
        recommender = Recommender(model, catalog, include_seen=self._include_seen)
        version = ModelVersion(_digest(path), card, path.stat().st_mtime, path)
        if signature([path]) != loaded[2]:
            log.info("%s changed while it was read; it is read again", path)
            return
        self.served, self._loaded = Served(self._histories, recommender, version), loaded
        self.counts.loaded += 1
        seconds = round(time.monotonic() - started, 3)
        facts = {"catalog": short_fingerprint(card.catalog), "seconds": seconds}
        log.info("in use: %s", version.text, extra={"facts": facts})

    def _model_now(self) -> Signature:
        if self._model is not None:
            return signature(model_files_at(self._model))
        return signature(self._state / name for name in (KEPT_FINAL, KEPT_LATEST))


def signature(paths: Iterable[Path]) -> Signature:
    """What tells whether files have changed."""
    return tuple(_one(path) for path in paths)


def _one(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
