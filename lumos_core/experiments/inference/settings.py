"""The settings of `lumos audit`: each is a name and what it changes in the configuration."""

from collections.abc import Mapping
from typing import NamedTuple

from lumos_core.config import Scalar


class Setting(NamedTuple):
    """Changes of the nodes' configuration, and whether replies are masked."""

    changes: Mapping[str, Scalar]
    masked: bool = False


_NODE_LEVEL: Mapping[str, Scalar] = {
    "dp": "distributed", "weighting": "uniform", "aggregation": "mean", "clip": "none",
    "min-replies": 8, "min-nodes": 8,
}  # fmt: skip
"""The node is one of eight that share the noise of a round."""

SETTINGS: dict[str, Setting] = {
    "fedavg": Setting({"method": "fedavg", "loss": "full"}),
    "fedavg, sampled softmax": Setting({"method": "fedavg", "loss": "sampled"}),
    "lumos": Setting({"loss": "full"}),
    "lumos, all rows": Setting({"item-rows": "all"}),
    "lumos, sampled softmax": Setting({"loss": "sampled"}),
    "lumos, int8": Setting({"delta-codec": "int8"}),
    "lumos, top-rows-int8": Setting({"delta-codec": "top-rows-int8"}),
    "lumos, node-level noise 0.01": Setting({**_NODE_LEVEL, "dp-noise-multiplier": 0.01}),
    "lumos, node-level noise 0.1": Setting({**_NODE_LEVEL, "dp-noise-multiplier": 0.1}),
    "lumos, node-level noise 1": Setting({**_NODE_LEVEL, "dp-noise-multiplier": 1.0}),
    "lumos, user-level noise 1": Setting({"dp": "user", "dp-noise-multiplier": 1.0}),
    "lumos, secure aggregation": Setting({}, masked=True),
}
