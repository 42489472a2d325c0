"""``nodes.json``, beside the SuperLink's database: the id that Flower gave to each node's key.

The supervisor of a deployed server writes the file; the ServerApp finds a node's name by its id.
"""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from lumos_core.safe_files import JsonFile


class RegisteredNode(BaseModel):
    """A registered node.

    Attributes:
        id: of 64 bits, as text.
        key: SHA-256 of its public key's file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern="^[0-9]+$")]
    key: str


class RegisteredNodes(JsonFile):
    """The file. In version 1, the nodes by name were all of it.

    Attributes:
        nodes: by name.
    """

    repair: ClassVar[str] = "the file is damaged: start the server again, it registers nodes anew"

    schema_version: int = Field(default=2, alias="schema_version")
    nodes: dict[str, RegisteredNode] = Field(default_factory=dict)

    @classmethod
    def upgraded(cls, found: dict[str, Any], version: int) -> dict[str, Any]:
        return found if version > 1 else {"nodes": found}

    def names(self) -> dict[int, str]:
        """Node id → name."""
        return {int(node.id): name for name, node in self.nodes.items()}
