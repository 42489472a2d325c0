"""The type of keys whose values are names of parts: LUMOS's own, or those of plug-ins."""

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from lumos_core import plugins


@dataclass(frozen=True)
class OneOf:
    """Annotates a text key that accepts these names, and those of plug-ins of one kind.

    Attributes:
        known: names of LUMOS's own parts; for one of them no plug-in is searched.
        kind: the kind of plug-ins that the key also accepts; None if it accepts none.
    """

    known: tuple[str, ...]
    kind: plugins.Kind | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str) -> str:
        if value in self.known:
            return value
        offered = plugins.names(self.kind) if self.kind else []
        if value in offered:
            return value
        *most, last = (f"'{name}'" for name in (*self.known, *offered))
        expected = f"{', '.join(most)} or {last}" if most else last
        message = "Input should be {expected}"
        raise PydanticCustomError("unknown_name", message, {"expected": expected})
