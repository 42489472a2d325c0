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
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"-c {text!r}: expected key=value, for example -c rounds=30")
        changes[key.strip()] = value.strip()
    return RunConfig.from_flat({**base.to_flat(), **changes})
