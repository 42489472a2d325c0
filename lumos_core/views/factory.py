"""From a configuration to a view writer, and to the vectors that items start from."""

import numpy as np

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.views.build import WriterFactory
from lumos_core.views.controls import RandomViewWriter, TfidfViewWriter, tfidf_embeddings

RECENT = 8  # last items of a history that views are about
TFIDF_DIM = 256


def view_factory(
    config: RunConfig, node: NodeConfig, catalog: Catalog
) -> tuple[str, WriterFactory]:
    """A writer's fingerprint, and a function that makes the writer when it is needed.

    Args:
        config: ``views`` chooses the writer; "shuffled" views are the LLM's, dealt out anew by
            :func:`lumos_core.views.source.shuffled`.
        node: its LLM choice wins over the run's.
        catalog: the public catalog.
    """
    options = {"future_items": config.view_items, "recent": RECENT, "seed": config.view_seed}
    identity = (catalog.fingerprint, config.view_items, RECENT, config.view_seed)
    if config.views == "random":
        return RandomViewWriter.fingerprint_of(*identity), lambda _: RandomViewWriter(
            len(catalog), catalog.fingerprint, **options
        )
    if config.views == "tfidf":
        return TfidfViewWriter.fingerprint_of(*identity), lambda _: TfidfViewWriter(
            catalog.titles, catalog.fingerprint, **options
        )
    from lumos_core.views.modes import llm_view_factory

    return llm_view_factory(config, node, catalog)


def semantic_vectors(config: RunConfig, catalog: Catalog) -> np.ndarray:
    """float32 [N, H]: a vector per title, by the LLM or by TF-IDF (``semantic-start``)."""
    if config.semantic_start == "tfidf":
        return tfidf_embeddings(catalog.titles, TFIDF_DIM, seed=0)
    from lumos_core.views.writer import llm_title_vectors

    return llm_title_vectors(config, catalog)
