"""The writer behind ``views = "llm"``."""

import numpy as np
import numpy.typing as npt

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.views.embeddings import stored_or_new_embeddings
from lumos_core.views.llm import llm_config


def llm_title_vectors(config: RunConfig, catalog: Catalog) -> npt.NDArray[np.float32]:
    """[N, H] float32: what titles mean to the run's model, rows of length 1.

    A node's own choice of model does not count here: all sides must start alike.

    Raises:
        ModelError: the model cannot be found or loaded.
    """
    return stored_or_new_embeddings(llm_config(config), catalog)
