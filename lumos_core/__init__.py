"""LUMOS: federated sequential recommendation with views written by a local language model.

What most programs need is here; everything else is in the packages, each of which says in its
docstring what it holds and where to begin reading::

    data/          catalogs, histories, importers          learning/    SASRec and its training
    views/         what the language model writes          federation/  round loop and nodes
    wire/          what travels, and its checks            privacy/     noise, secure aggregation
    runs/          what a run leaves in its folder         recommend/   a trained model in use
    config/        keys of a run and of a node             plugins/     parts from other packages
    flower/        everything that knows Flower            experiments/ comparisons and attacks
    deployment/    processes, credentials, supervisors     serving/     recommendations over HTTP
    pages/         what browsers show of a run             cli/         the command line

Names are loaded when they are used: a node starts a process for every message.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumos_core.config import NodeConfig, RunConfig
    from lumos_core.data.catalog import Catalog
    from lumos_core.federation.simulate import simulate
    from lumos_core.recommend.model_files import load_model
    from lumos_core.recommend.recommender import Recommender

__version__ = "0.2.0"
"""The same as in pyproject.toml; written out, because the app that Flower hands to its processes is
not an installed package."""

__all__ = ["Catalog", "NodeConfig", "Recommender", "RunConfig", "load_model", "simulate"]

_HOMES = {
    "Catalog": "lumos_core.data.catalog",
    "NodeConfig": "lumos_core.config",
    "Recommender": "lumos_core.recommend.recommender",
    "RunConfig": "lumos_core.config",
    "load_model": "lumos_core.recommend.model_files",
    "simulate": "lumos_core.federation.simulate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
