"""The configurations of a run and of a node: flat keys in, validated frozen objects out.

Begin with `run_keys`: every key of a run, its default and its meaning; `round_keys` has those of
its rounds. `run_config` makes one configuration of them and refuses values that do not go together.
`same_run` says which keys may change when a run resumes, `older_runs` what a saved configuration
means that lacks some. `node_config` has the keys of a node, `floor_keys` those with which its owner
limits any run, `methods` the methods that ``method`` may name, `names` the type of keys whose
values are names, `flat` what both configurations have in common; `reference` writes
``docs/configuration.md`` from the fields. May import only `errors` and `plugins` outside this
package.
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
from lumos_core.config.older_runs import resolved
from lumos_core.config.round_keys import RoundKeys
from lumos_core.config.run_config import RunConfig, load_plugins
from lumos_core.config.run_keys import (
    BAG,
    LIGR,
    SASREC,
    AggregationKeys,
    CodecName,
    LLMKeys,
    ModelKeys,
    PrivacyKeys,
    SecureKeys,
    TrainingKeys,
    ViewKeys,
    WatchKeys,
)
from lumos_core.config.same_run import first_difference, fixed, free_keys

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
