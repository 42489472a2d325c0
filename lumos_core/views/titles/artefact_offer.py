"""The catalog artefact as a server offers it to nodes that lack it, piece by piece."""

import os
from dataclasses import dataclass
from typing import BinaryIO, Self

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.layout import artefact_beside
from lumos_core.views.titles.artefact_pieces import PIECE_BYTES, Offered, Piece, most_bytes
from lumos_core.views.titles.catalog_artefact import CatalogArtefact, because_of, refuse


@dataclass(frozen=True)
class Offer:
    """The artefact of a run, at its server.

    Attributes:
        file: the artefact; it stays the same if somebody replaces it meanwhile.
        offered: what nodes are told first.
    """

    file: BinaryIO
    offered: Offered

    @classmethod
    def of(cls, config: RunConfig, catalog: Catalog) -> Self | None:
        """The artefact beside the server's catalog, if the run names it and its nodes can use it.

        Raises:
            ArtefactError: it is damaged, is not the one that the run names, or is too large.
        """
        wanted, path = config.catalog_artefact, artefact_beside(catalog.path)
        if not wanted or path is None or not asks_a_model(config):
            return None
        try:
            file, about = path.open("rb"), CatalogArtefact.read(path).about
        except OSError as error:
            raise because_of(path, error) from error
        if about.digest != wanted:
            repair = "copy the run's artefact here, or delete this one: then nodes are offered none"
            refuse(path, f"the digest {about.digest}", f"{wanted} (catalog-artefact)", repair)
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes(len(catalog)):
            expected = f"at most {most_bytes(len(catalog)):,} for {len(catalog):,} items"
            repair = "build one of this catalog alone with 'lumos catalog build', or delete it here"
            refuse(path, f"{size:,} bytes", expected, repair)
        return cls(file, Offered(size, about.model, about.recipe, about.noun))

    def piece(self, number: int) -> Piece:
        """A piece of the file."""
        size = self.offered.size_of(number)
        return Piece(number, os.pread(self.file.fileno(), size, number * PIECE_BYTES))


def asks_a_model(config: RunConfig) -> bool:
    """Whether nodes of a run ask a language model for views."""
    return config.has_views and config.views in ("llm", "shuffled")
