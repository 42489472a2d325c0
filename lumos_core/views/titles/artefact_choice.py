"""Whether a machine uses the catalog artefact beside its ``catalog.tsv``, or reads titles itself.

- A file by another model, for another noun, of another recipe, or without some of the catalog's
  titles is not used, and the log says why: the machine reads the titles itself.
- A file that is damaged, is not the one that the run names, or does not say what this machine's
  model says is refused by name, and with it what needs it. The owner has to remove it: to go on
  silently would hide that somebody tries to steer views.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.layout import artefact_beside
from lumos_core.safe_files import write_atomically
from lumos_core.views.llm.load import LocalLLM
from lumos_core.views.titles.artefact_reading import SAMPLE, check_sample, recipe
from lumos_core.views.titles.catalog_artefact import (
    About,
    CatalogArtefact,
    because_of,
    read_keys,
    refuse,
    title_key,
)
from lumos_core.views.titles.embeddings import unit
from lumos_core.views.titles.space import Floats

log = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """An artefact that fits; its arrays have not been read yet."""

    path: Path
    about: About


def chosen_artefact(
    config: RunConfig,
    catalog: Catalog,
    model: str,
    noun: str | None = None,
    fetched: Path | None = None,
) -> Chosen | None:
    """The artefact beside a catalog, if there is one that fits; none of its arrays but the keys is
    read.

    Args:
        config: may name the digest of the run's artefact.
        catalog: as it was read from its file.
        model: fingerprint of the language model.
        noun: what a history is; None if priors are not needed.
        fetched: where an artefact that came from the server would be; used if none is beside the
            catalog.

    Raises:
        ArtefactError: the file is damaged, or is not the one that the run names.
        NewerFileError: a newer LUMOS wrote it.
    """
    path = artefact_beside(catalog.path)
    if path is None and fetched is not None and fetched.exists():
        path = fetched
    if path is None:
        if config.catalog_artefact:
            log.info("no catalog artefact here: titles are read, unless it comes from the server")
        return None
    try:
        about = About.read(path)
        if reason := unfit(path, about, catalog, model, noun):
            log.info("%s is not used: %s; titles are read here", path, reason)
            return None
    except OSError as error:
        raise because_of(path, error) from error
    wanted = config.catalog_artefact
    if wanted and about.digest != wanted:
        refuse(
            path,
            f"the digest {about.digest}",
            f"{wanted}, which the run names (catalog-artefact)",
            "copy the run's artefact here, or delete this one: then this machine reads the titles "
            "itself",
        )
    return Chosen(path, about)


def fetched_artefact(cache_dir: Path, digest: str) -> Path:
    """Where the artefact of that digest is after it has come from a server."""
    return cache_dir / "catalogs" / f"fetched-{digest}.safetensors"


def unfit(path: Path, about: About, catalog: Catalog, model: str, noun: str | None) -> str:
    """Why an artefact cannot be used; empty if it can.

    Raises:
        ArtefactError: it is damaged.
    """
    if about.model != model:
        return f"it is by the model {about.model[:16]}, this machine has {model[:16]}"
    if about.recipe != recipe():
        return (
            f"its recipe is {about.recipe}, that of this LUMOS {recipe()} ('lumos catalog build' "
            "makes it again)"
        )
    if noun is not None and about.noun != noun:
        return f"it is about {about.noun!r}, the run about {noun!r}"
    known = read_keys(path)
    missing = sum(title_key(title) not in known for title in set(catalog.titles))
    if missing:
        CatalogArtefact.read(path)  # a damaged file must not pass for one of another catalog
        return f"it lacks {missing} titles of this catalog ('lumos catalog extend' adds them)"
    return ""


def read_chosen(chosen: Chosen) -> CatalogArtefact:
    """The content of an artefact, checked.

    Raises:
        ArtefactError: it is damaged, or is not the one that was chosen.
    """
    try:
        found = CatalogArtefact.read(chosen.path)
    except OSError as error:
        raise because_of(chosen.path, error) from error
    if found.about != chosen.about:
        refuse(chosen.path, f"the digest {found.about.digest}", chosen.about.digest)
    return found


def read_compared(
    chosen: Chosen, llm: LocalLLM, catalog: Catalog, cache_dir: Path
) -> CatalogArtefact:
    """The content of an artefact, checked, of which this machine has read a few titles itself.

    Args:
        chosen: fits the model and the catalog.
        llm: the loaded model.
        catalog: the public catalog.
        cache_dir: remembers which artefacts have been compared.

    Raises:
        ArtefactError: it is damaged, or does not say what the model says.
    """
    artefact = read_chosen(chosen)
    mark = cache_dir / "catalogs" / f"compared-{artefact.about.digest}"
    if not mark.exists():
        check_sample(chosen.path, artefact, llm, catalog.titles)
        log.info("%s says of %d titles what this machine reads", chosen.path, SAMPLE)
        try:
            write_atomically(mark, b"")
        except OSError:  # a file system that is read-only or full costs time, but no result
            log.info("%s cannot be written: the titles will be read again", mark)
    return artefact


def meaning_of(artefact: CatalogArtefact, catalog: Catalog) -> Floats:
    """[N, H] vectors of meaning of a catalog's titles; rows of length 1 (or 0)."""
    return unit(artefact.of(catalog.titles).meaning.astype(np.float32))
