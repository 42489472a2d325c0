"""The vectors that item embeddings start from: by the language model, or by TF-IDF."""

import hashlib
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.views.titles.resumable import Pieces

TFIDF_DIM = 256
TFIDF_VERSION = "1"
"""Changes when the same titles get other vectors."""


def semantic_vectors(config: RunConfig, catalog: Catalog) -> np.ndarray:
    """float32 [N, H]: a vector per title, by the LLM or by TF-IDF (``semantic-start``)."""
    if config.semantic_start == "tfidf":
        return tfidf_title_vectors(catalog)
    return llm_title_vectors(config, catalog)


def tfidf_title_vectors(catalog: Catalog) -> npt.NDArray[np.float32]:
    """[N, H] float32: title vectors by TF-IDF, rows of length 1; computed once per machine.

    A ClientApp is a new process for every message, and computing them takes seconds.
    """
    from lumos_core.views.llm.find import default_cache
    from lumos_core.views.titles.cache import cached_arrays

    parts = (catalog.fingerprint, TFIDF_VERSION, str(TFIDF_DIM), version("scikit-learn"))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def compute(pieces: Pieces | None = None) -> dict[str, npt.NDArray[np.float32]]:
        from lumos_core.views.titles.tfidf import tfidf_embeddings

        return {"vectors": tfidf_embeddings(catalog.titles, TFIDF_DIM, seed=0)}

    path = default_cache() / "catalogs" / f"tfidf-{key[:24]}.safetensors"
    try:
        found = cached_arrays(path, compute)
    except OSError:  # a file system that is read-only or full costs time, but no result
        found = compute()
    return np.asarray(found["vectors"], dtype=np.float32)


def llm_title_vectors(config: RunConfig, catalog: Catalog) -> npt.NDArray[np.float32]:
    """[N, H] float32: title vectors by the run's language model, rows of length 1; from the catalog
    artefact beside ``catalog.tsv`` if one fits.

    A node's own choice of model does not count here: all sides must start with the same vectors.

    Raises:
        ModelError: the model cannot be found or loaded, or the catalog artefact is refused.
    """
    from lumos_core.views.llm.find import llm_config, model_fingerprint
    from lumos_core.views.titles.artefact_choice import chosen_artefact, meaning_of, read_chosen
    from lumos_core.views.titles.embeddings import stored_or_new_embeddings
    from lumos_core.views.titles.shipped import seed_cache

    choice = llm_config(config)
    chosen = chosen_artefact(config, catalog, model_fingerprint(choice))
    if chosen is not None:
        return meaning_of(read_chosen(chosen), catalog)
    seed_cache(choice.cache)
    return stored_or_new_embeddings(choice, catalog)
