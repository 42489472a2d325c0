"""The vectors that item embeddings start from: by the language model, or by TF-IDF."""

import numpy as np
import numpy.typing as npt

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog

TFIDF_DIM = 256


def semantic_vectors(config: RunConfig, catalog: Catalog) -> np.ndarray:
    """float32 [N, H]: a vector per title, by the LLM or by TF-IDF (``semantic-start``)."""
    if config.semantic_start == "tfidf":
        from lumos_core.views.titles.tfidf import tfidf_embeddings

        return tfidf_embeddings(catalog.titles, TFIDF_DIM, seed=0)
    return llm_title_vectors(config, catalog)


def llm_title_vectors(config: RunConfig, catalog: Catalog) -> npt.NDArray[np.float32]:
    """[N, H] float32: title vectors by the run's language model, rows of length 1.

    A node's own choice of model does not count here: all sides must start with the same vectors.

    Raises:
        ModelError: the model cannot be found or loaded.
    """
    from lumos_core.views.llm.find import llm_config
    from lumos_core.views.titles.embeddings import stored_or_new_embeddings
    from lumos_core.views.titles.shipped import seed_cache

    choice = llm_config(config)
    seed_cache(choice.cache)
    return stored_or_new_embeddings(choice, catalog)
