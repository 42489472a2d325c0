"""The catalog artefact as a node takes it from its server, piece by piece.

Every message about it starts a new process, so all that is known lies in the cache folder of the
machine, where nodes of one machine share it::

    catalogs/.fetched-DIGEST-SIZE.part       what has come
    catalogs/fetched-DIGEST.safetensors      the artefact, complete and checked
    catalogs/refused-DIGEST                  the server's was wrong: it is not taken again

A node says which piece it expects, and writes no other. So an interruption costs one piece at most,
and two nodes that share a cache fetch the file once. The size is limited before the first byte is
accepted. The whole file has to pass the checks of any other, and a few of its titles are read and
compared, before it gets its name. The owner's own file, beside ``catalog.tsv``, is never touched.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.layout import artefact_beside
from lumos_core.errors import ArtefactError
from lumos_core.safe_files import exclusive, lock_beside, write_atomically
from lumos_core.views.llm.find import llm_config, model_fingerprint
from lumos_core.views.titles.artefact_choice import (
    Chosen,
    fetched_artefact,
    read_compared,
    unfit,
)
from lumos_core.views.titles.artefact_offer import asks_a_model
from lumos_core.views.titles.artefact_pieces import PIECE_BYTES, Offered, Piece, most_bytes
from lumos_core.views.titles.artefact_reading import log_titles_read, recipe
from lumos_core.views.titles.catalog_artefact import About, refuse

log = logging.getLogger(__name__)

_REPAIR = (
    "it is not taken from the server again, and this machine reads the titles itself; tell the "
    "server's operator"
)


class Wanted(NamedTuple):
    """What a node answers: whether it wants a piece, and which."""

    wanted: bool
    piece: int = 0


NOTHING = Wanted(False)


@dataclass(frozen=True)
class Fetch:
    """The artefact that a server offers, at one node.

    Args:
        config: of the run.
        node: of the node.
        offered: by the server.
        catalog: reads the node's catalog; called when a fetch begins and when it ends.
    """

    config: RunConfig
    node: NodeConfig
    offered: Offered
    catalog: Callable[[], Catalog]

    def answer(self, piece: Piece | None) -> Wanted:
        """Take a piece, if it is the one that is expected; say which is expected next.

        Args:
            piece: None with the server's first question.

        Raises:
            ArtefactError: what the server offers or sends is not what the run named.
            OSError: the disk refuses it.
        """
        if not self._may_fetch():
            return NOTHING
        self._folder.mkdir(parents=True, exist_ok=True)
        with exclusive(lock_beside(self.path)):
            if self.path.exists() or self._refused.exists():
                return NOTHING
            if not self._part.exists():
                return self._begin()
            if piece is not None:
                self._take(piece)
            expected = self._part.stat().st_size // PIECE_BYTES
            if self._part.stat().st_size < self.offered.size:
                return Wanted(True, expected)
            self._finish()
            return NOTHING

    @property
    def path(self) -> Path:
        """The artefact, once it is complete and checked."""
        return fetched_artefact(llm_config(self.config, self.node).cache, self._digest)

    @property
    def _digest(self) -> str:
        return self.config.catalog_artefact

    @property
    def _folder(self) -> Path:
        return self.path.parent

    @property
    def _part(self) -> Path:
        return self._folder / f".fetched-{self._digest}-{self.offered.size}.part"

    @property
    def _refused(self) -> Path:
        return self._folder / f"refused-{self._digest}"

    def _may_fetch(self) -> bool:
        """Whether the run and this node's owner want it."""
        node = self.node
        allowed = node.use_catalog_artefact and node.fetch_catalog_artefact
        return bool(self._digest) and allowed and asks_a_model(self.config)

    def _begin(self) -> Wanted:
        catalog, offered = self.catalog(), self.offered
        if artefact_beside(catalog.path) is not None:
            return NOTHING
        model = model_fingerprint(llm_config(self.config, self.node))
        if (offered.model, offered.recipe) != (model, recipe()):
            log.info("the server's catalog artefact is by another model or LUMOS: not taken")
            return NOTHING
        limit = most_bytes(len(catalog))
        if not 0 < offered.size <= limit:
            found = f"{offered.size:,} bytes offered by the server"
            self._refuse(found, f"at most {limit:,} for {len(catalog):,} items")
        self._part.touch(mode=0o600)
        return Wanted(True)

    def _take(self, piece: Piece) -> None:
        """Write a piece, if the ones before it are there."""
        if piece.number != self._part.stat().st_size // PIECE_BYTES:
            return  # another node of this machine was quicker
        expected = self.offered.size_of(piece.number)
        if len(piece.content) != expected:
            self._refuse(f"a piece of {len(piece.content):,} bytes", f"{expected:,}")
        with self._part.open("r+b") as file:
            file.seek(piece.number * PIECE_BYTES)  # over what an interruption left of it
            file.write(piece.content)

    def _finish(self) -> None:
        """Check the file, then give it its name."""
        from lumos_core.views.llm.load import load_llm

        catalog, choice = self.catalog(), llm_config(self.config, self.node)
        part = self._part
        try:
            about = About.read(part)
            noun = self.config.llm_noun
            if about.digest != self._digest:
                refuse(part, f"the digest {about.digest}", f"{self._digest} (catalog-artefact)")
            if reason := unfit(part, about, catalog, model_fingerprint(choice), noun):
                refuse(part, f"another artefact than offered: {reason}", "one that fits")
            llm = load_llm(choice)
            read_compared(Chosen(part, about), llm, catalog, choice.cache)
            log_titles_read(llm)
        except ArtefactError as error:
            self._drop(f"{error}")
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, self.path)
        log.info("the run's catalog artefact has come from the server: %s", self.path)

    def _refuse(self, found: str, expected: str) -> NoReturn:
        self._drop(f"found {found}, expected {expected}")

    def _drop(self, reason: str) -> NoReturn:
        """Remove what has come, and take no more of it."""
        self._part.unlink(missing_ok=True)
        write_atomically(self._refused, b"")
        raise ArtefactError(f"catalog artefact {self._digest} of the server: {reason}; {_REPAIR}")
