"""Options that several commands share."""

from typing import Annotated

import typer

from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError

ConfigOption = Annotated[
    list[str] | None,
    typer.Option("--config", "-c", metavar="KEY=VALUE", help="Any configuration key; repeatable."),
]


def with_overrides(base: RunConfig, assignments: list[str] | None) -> RunConfig:
    """``base`` with ``key=value`` texts applied; pydantic turns the text into the key's type.

    Raises:
        ConfigError: not of the form key=value, or refused by :class:`RunConfig`.
    """
    changes: dict[str, str] = {}
    for text in assignments or []:
        key, value = split_assignment(text)
        changes[key] = value
    return RunConfig.from_flat({**base.to_flat(), **changes})


def split_assignment(text: str) -> tuple[str, str]:
    """Key and value of a ``KEY=VALUE`` text.

    Raises:
        ConfigError: it is not of that form.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(f"-c {text!r}: expected KEY=VALUE, such as -c local-epochs=2")
    return key, value
