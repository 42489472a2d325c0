"""The configurations of a run and of a node: flat keys in, validated frozen objects out.

Begin with `run_config`: every key of a run, its default and its meaning. `node_config` has those of
a node, `floor_keys` those with which its owner limits any run, `methods` the methods that
``method`` may name, `names` the type of keys whose values are names, `flat` what both
configurations have in common; `reference` writes ``docs/configuration.md`` from the fields. May
import only `errors` and `plugins` outside this package.
"""

from lumos_core.config.flat import FlatConfig, LogFormat, LogLevel, Scalar
from lumos_core.config.floor_keys import FloorKeys
from lumos_core.config.methods import METHODS, Method, next_item_only
from lumos_core.config.node_config import (
    APPROVED_APPS,
    NODE_NAME,
    NODE_NAMES,
    SIMULATION_DATA,
    NodeConfig,
)
from lumos_core.config.round_keys import RoundKeys
from lumos_core.config.run_config import (
    BAG,
    LIGR,
    SASREC,
    AggregationKeys,
    CodecName,
    LLMKeys,
    ModelKeys,
    PrivacyKeys,
    RunConfig,
    SecureKeys,
    TrainingKeys,
    ViewKeys,
    WatchKeys,
    first_difference,
    fixed,
    free_keys,
    load_plugins,
    resolved,
)

__all__ = [
    "APPROVED_APPS",
    "BAG",
    "LIGR",
    "METHODS",
    "NODE_NAME",
    "NODE_NAMES",
    "SASREC",
    "SIMULATION_DATA",
    "AggregationKeys",
    "CodecName",
    "FlatConfig",
    "FloorKeys",
    "LLMKeys",
    "LogFormat",
    "LogLevel",
    "Method",
    "ModelKeys",
    "NodeConfig",
    "PrivacyKeys",
    "RoundKeys",
    "RunConfig",
    "Scalar",
    "SecureKeys",
    "TrainingKeys",
    "ViewKeys",
    "WatchKeys",
    "first_difference",
    "fixed",
    "free_keys",
    "load_plugins",
    "next_item_only",
    "resolved",
]
