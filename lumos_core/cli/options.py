"""Options that several commands share, and functions that parse their values."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError

from lumos_core.config import METHODS, RunConfig
from lumos_core.errors import ConfigError, reason_of

_NODE_PREFIX = "node."
Value = TypeVar("Value", str, int)
_KEYS = "see `lumos config`; repeatable."

ConfigOption = Annotated[
    list[str] | None,
    typer.Option("--config", "-c", metavar="KEY=VALUE", help=f"Any key of a run, {_KEYS}"),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--config", "-c", metavar="KEY=VALUE", help=f"Any key of a run, or node.KEY; {_KEYS}"
    ),
]
RoundsOption = Annotated[
    int | None, typer.Option("--rounds", min=1, help="Rounds of training.", show_default=False)
]
MethodOption = Annotated[
    str | None,
    typer.Option("--method", help=f"One of {', '.join(METHODS)}.", show_default=False),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Decides everything that is random.", show_default=False),
]

FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN|MODEL",
        help="Start from this model instead of a new one: a run folder, an exported folder, a "
        "node's state folder or a model file. The catalog may have grown by items at its end.",
        show_default=False,
    ),
]


# ---------------------------------------------------------------- KEY=VALUE
def assignments(texts: Iterable[str]) -> dict[str, str]:
    """Keys and values of ``KEY=VALUE`` texts.

    Raises:
        ConfigError: one is not of that form, or a key comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise ConfigError(f"-c {text!r}: expected KEY=VALUE, such as -c local-epochs=2")
        if key in found:
            raise ConfigError(f"-c {text!r}: key '{key}' is given twice")
        found[key] = value
    return found


def parse_settings(
    texts: Iterable[str] | None, **options: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """``KEY=VALUE`` texts as values of the run's and of the nodes' configuration.

    Args:
        options: keys of the run that also have an option; None where the option is not given.

    Raises:
        ConfigError: as :func:`assignments` and :func:`with_options`.
    """
    found = assignments(texts or [])
    run = {k: v for k, v in found.items() if not k.startswith(_NODE_PREFIX)}
    node = {k.removeprefix(_NODE_PREFIX): v for k, v in found.items() if k not in run}
    return with_options(run, options), node


def with_options(flat: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """``flat`` together with the keys that were given by their option (those that are not None).

    Raises:
        ConfigError: a key is given both ways.
    """
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key in flat:
            raise ConfigError(f"key '{key}' is given twice, as --{key} and with -c")
    return {**flat, **given}


def with_overrides(
    base: RunConfig, texts: Iterable[str] | None, own: Mapping[str, str] | None = None
) -> RunConfig:
    """``base`` with ``KEY=VALUE`` texts applied; pydantic turns a text into the key's type.

    Args:
        own: keys that the command sets by itself, each with the option that decides it.

    Raises:
        ConfigError: as :func:`assignments`; or a key is one of ``own``, or :class:`RunConfig`
            refuses it.
    """
    changes = assignments(texts or [])
    for key in changes:
        if option := (own or {}).get(key):
            raise ConfigError(f"-c {key}=…: this command sets it by itself; use {option}")
    return RunConfig.from_flat({**base.to_flat(), **changes})


def unmasked(
    texts: Iterable[str] | None,
    instead: str = "give what it needs, aggregation=mean and clip=none",
) -> None:
    """Refuse secure aggregation in a command that trains in one process. This comes before the
    texts are made a configuration, where other keys would be refused that nobody gave.

    Args:
        texts: ``KEY=VALUE`` texts.
        instead: what to do beside leaving it out.

    Raises:
        ConfigError: they turn it on.
    """
    value = assignments(texts or []).get("secure-aggregation", "false")
    try:
        on = TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return  # no boolean: the configuration says so
    if on:
        raise ConfigError(
            f"secure-aggregation = {value}: this command trains all nodes in one process, without "
            f"masks, which change nothing but how a sum is rounded; leave it out, and {instead}"
        )


def measured(config: RunConfig, by_time: bool = False) -> RunConfig:
    """The configuration of a command that measures models.

    Args:
        config: of the command.
        by_time: whether it can also measure them with a split by time.

    Raises:
        ConfigError: nothing is held out to measure them, or not in a way that the command knows.
    """
    if not config.holds_out:
        raise ConfigError(
            "evaluation = none: this command measures models on items that are held out; leave "
            "evaluation as it is"
        )
    if by_time and not config.tests:
        raise ConfigError(
            f"evaluation = last-days with evaluate-from = {config.evaluate_from}: this command "
            "needs a test as well; give its first day, -c test-from=YYYY-MM-DD"
        )
    if not by_time and config.evaluation != "leave-one-out":
        raise ConfigError(
            f"evaluation = {config.evaluation}: this command measures models on each user's last "
            "two items; leave evaluation as it is"
        )
    return config


def defaults_for(data: Path, **fields: Any) -> RunConfig:
    """The default configuration for prepared data: ``llm-noun`` follows from their domain.

    Args:
        data: a prepared folder or a node's; of it only the domain is read and checked here.
        fields: fields of the configuration that differ from the default.

    Raises:
        DataError: the file that records the domain is damaged.
    """
    from lumos_core.data.prepared_folder import prepared_noun  # imports polars

    noun = prepared_noun(data)
    config = RunConfig(**fields)
    return config.replace(llm_noun=noun) if noun else config


# ---------------------------------------------------------------- lists
def names(text: str, option: str) -> list[str]:
    """Comma-separated names, each once.

    Raises:
        ConfigError: one comes twice: its runs would count as replicates.
    """
    return _once([part.strip() for part in text.split(",")], option)


def integers(text: str, option: str) -> list[int]:
    """Comma-separated whole numbers, each once.

    Raises:
        ConfigError: something else is among them, or one comes twice.
    """
    try:
        return _once([int(part) for part in text.split(",")], option)
    except ValueError:
        raise ConfigError(f"{option} {text!r}: expected whole numbers, as in 0,1,2") from None


def _once(values: Sequence[Value], option: str) -> list[Value]:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"{option}: {value} is given twice; leave one out")
    return list(values)


# ---------------------------------------------------------------- folders
def check_out(out: Path) -> None:
    """Make the folder for results before the work begins, so that a folder that cannot be made is
    not found only after hours.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(
            f"--out {out}: not a folder that can be written to ({reason_of(error)}); choose another"
        ) from None
