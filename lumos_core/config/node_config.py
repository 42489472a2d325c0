"""The configuration of one node: facts that stay on its machine."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from lumos_core.config.flat import (
    Count,
    LogFormat,
    LogLevel,
    NonNegative,
    Positive,
    key,
)
from lumos_core.config.floor_keys import FloorKeys
from lumos_core.config.node_choice import joined_tags

NODE_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Regular expression of valid node names; a name becomes part of file names and logs."""
NODE_NAMES = "LUMOS_NODE_NAMES"
"""Environment variable of a deployed ServerApp: the file with the names of registered nodes."""
SIMULATION_DATA = "LUMOS_SIMULATION_DATA"
"""Environment variable of virtual nodes: the folder that holds node-0/, node-1/, …"""
APPROVED_APPS = "approved-apps"
"""The key that a node's supervisor keeps for itself: it is not part of what an app is given."""


def _digests(value: object) -> object:
    """A list of digests, or a text with commas between them, as such a text."""
    found = [text for text in value.split(",") if value] if isinstance(value, str) else value
    if not isinstance(found, list | tuple):
        raise _wrong_digest()
    digests = [text.strip() if isinstance(text, str) else "" for text in found]
    if not all(re.fullmatch("[0-9a-f]{64}", text) for text in digests):
        raise _wrong_digest()
    return ",".join(digests)


def _wrong_digest() -> PydanticCustomError:
    return PydanticCustomError(
        "digest", "expected digests of 64 characters 0-9 and a-f, as `lumos node app-digest` prints"
    )


class NodeConfig(FloorKeys):
    """Facts of one node that stay on its machine (Flower's ``--node-config``), and its owner's
    floor.

    >>> NodeConfig(data="data/node-0").state_folder.as_posix()
    'data/node-0/state'
    """

    data: str = key(..., "folder with catalog.tsv and interactions.tsv")
    state: str = key("", "folder for views, ledger, models and logs; empty: state/ below data")
    name: Annotated[str, Field(pattern=f"^{NODE_NAME}$")] = key(
        "node", "the node's name, the same in every run; it becomes part of file names and logs"
    )
    tags: Annotated[str, BeforeValidator(joined_tags)] = key(
        "",
        "public words by which a run may choose this node (the run's key nodes); the server and "
        "its operators see them; a list in node.toml",
    )
    device: str = key("cpu", "torch device that SASRec is trained on")
    threads: Positive = key(1, "CPU threads")
    llm: str = key("", "the node's own language model; empty: the run's")
    llm_quantization: Literal["", "none", "8bit", "4bit"] = key(
        "", "quantization of the node's language model; empty: the run's"
    )
    use_catalog_artefact: bool = key(
        True,
        "use the catalog.safetensors beside catalog.tsv if it fits; false: this node's own "
        "language model reads all titles",
    )
    fetch_catalog_artefact: bool = key(
        True,
        "without a catalog.safetensors beside catalog.tsv, take the run's from the server; false: "
        "this node's own language model reads all titles",
    )
    view_seconds: NonNegative = key(
        60.0, "seconds per round to write views that are still missing in the rounds"
    )
    prepare_seconds: NonNegative = key(
        0.0, "seconds to write views before round 1; 0: until none is missing"
    )
    log_format: LogFormat = key(
        "text", "log format of the node's process; json: one object per line"
    )
    log_level: LogLevel = key("info", "log level of the node's process")
    keep_model: bool = key(True, "keep the received global model for `lumos recommend`")
    approved_apps: Annotated[str, BeforeValidator(_digests)] = key(
        "", "digests of apps that this node runs besides the installed LUMOS; a list in node.toml"
    )
    partition_id: Count = key(0, "set by Flower's simulation engine")
    num_partitions: Positive = key(1, "set by Flower's simulation engine")

    @property
    def state_folder(self) -> Path:
        """Where the node keeps its views, ledger, models and logs."""
        return Path(self.state) if self.state else Path(self.data) / "state"
