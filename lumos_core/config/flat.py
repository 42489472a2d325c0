"""The base of both configurations: objects made of flat mappings with kebab-case keys, the form in
which Flower passes a configuration."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lumos_core.errors import ConfigError

Scalar = str | int | float | bool
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


def key(default: Any, meaning: str, *, free: bool = False) -> Any:
    """A configuration key: its default and its meaning.

    Args:
        default: its default; ``...`` for a key that must be given.
        meaning: its text in ``lumos config`` and ``docs/configuration.md``; begins in lower case.
        free: whether its value may change when a run is resumed.
    """
    return Field(default, description=meaning, json_schema_extra={"free": free})


def day(text: str) -> str:
    """Check a day of the calendar, or nothing.

    Raises:
        ValueError: it is not spelled ``YYYY-MM-DD``, or not in the calendar.
    """
    if text and (len(text) != 10 or date.fromisoformat(text).isoformat() != text):
        raise ValueError("expected a day such as 2026-11-22")
    return text


def kebab(name: str) -> str:
    """A field's name as the key of a flat mapping."""
    return name.replace("_", "-")


class FlatConfig(BaseModel):
    """Base of both configurations: frozen, strict about names, read from and written to flat
    mappings.

    Unknown keys, wrong types, values out of range and impossible combinations raise
    :class:`~lumos_core.errors.ConfigError` naming the key.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=kebab,
        validate_by_alias=True,
        validate_by_name=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        defer_build=True,  # groups of keys are never instantiated by themselves
    )

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Self:
        """Validate a flat kebab-case mapping.

        Raises:
            ConfigError: names every wrong key, the value found and what was expected.
        """
        try:
            return cls.model_validate(dict(flat))
        except ValidationError as error:
            raise ConfigError(_explain(error, cls)) from None

    def to_flat(self) -> dict[str, Scalar]:
        """The mapping that :meth:`from_flat` turns back into an equal object."""
        return self.model_dump(by_alias=True)

    def replace(self, **changes: Any) -> Self:
        """A validated copy with some fields (snake_case names) changed."""
        renamed = {kebab(name): value for name, value in changes.items()}
        return type(self).from_flat({**self.to_flat(), **renamed})


def _explain(error: ValidationError, model: type[FlatConfig]) -> str:
    keys = {name: f.alias or name for name, f in model.model_fields.items()}
    lines = []
    for problem in error.errors():
        name = keys.get(str(problem["loc"][0]), str(problem["loc"][0])) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key '{name}'{_did_you_mean(name, keys.values())}")
        elif not name:
            lines.append(problem["msg"].removeprefix("Value error, "))
        elif problem["type"] == "missing":
            lines.append(f"key '{name}' is required")
        else:
            lines.append(f"key '{name}': found {problem['input']!r}, but {problem['msg'].lower()}")
    return "; ".join(lines)


def _did_you_mean(name: str, known: Any) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
