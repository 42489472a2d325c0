"""``nodes.json``, beside the SuperLink's database: the id that Flower gave to each node's key.

The supervisor of a deployed server writes the file, also while the server runs; the ServerApp finds
a node's name by its id.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from lumos_core.errors import LumosError
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


class LiveNames(Mapping[int, str]):
    """Node id → name, as the file has it now: nodes are added and removed while a run goes on.

    A file that cannot be read for a moment changes nothing.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, or is damaged.
        NewerFileError: a newer LUMOS wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = self._found()
        self._names = RegisteredNodes.read(path).names()

    def __getitem__(self, node_id: int) -> str:
        return self._now()[node_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def _now(self) -> dict[int, str]:
        found = self._found()
        if found is not None and found != self._version:
            try:
                self._names = RegisteredNodes.read(self._path).names()
            except LumosError:
                return self._names
            self._version = found
        return self._names

    def _found(self) -> tuple[int, int, int] | None:
        """What changes with every write, which puts a new file in place of the old one."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size
