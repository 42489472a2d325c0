"""The reference of all keys, for people: ``lumos config`` and ``docs/configuration.md``."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from lumos_core.config.flat import FlatConfig, kebab
from lumos_core.config.floor_keys import FloorKeys
from lumos_core.config.names import OneOf
from lumos_core.config.node_config import NodeConfig
from lumos_core.config.run_config import GROUPS, RunConfig, group_keys
from lumos_core.config.same_run import FREE_KEYS
from lumos_core.terminal.tables import markdown_table

_SIGNS: dict[type[Any], tuple[str, str]] = {
    Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<"),
}  # fmt: skip
_HEAD = """\
# Every key of a run and of a node

Made by `make docs` from `lumos_core/config/`; `lumos config` shows the same. Keys of a run are
given with `-c KEY=VALUE`; on separate machines the server has them and sends them to the nodes.
Keys marked ↻ may change when a run is resumed.
"""
_NODE = """\
## A node's own

Flower takes them from `--node-config`; `lumos node start` sets them from its options. They stay on
the node's machine.
"""
_FLOOR = """\
## The owner's floor

Also a node's own: limits that no run's configuration can go below
([privacy.md](privacy.md#the-owners-floor)). `lumos node policy` shows a node's in plain words.
"""


class KeyRow(NamedTuple):
    """One key."""

    key: str
    default: str
    allowed: str
    meaning: str
    free: bool


def groups() -> Iterator[tuple[str, list[KeyRow]]]:
    """Titles of the groups of a run's keys, and their keys."""
    for group in GROUPS:
        title = "What is run" if group is RunConfig else (group.__doc__ or "").partition("\n")[0]
        yield title, _rows(group)


def node_groups() -> Iterator[tuple[str, list[KeyRow]]]:
    """Titles of the groups of a node's keys, and their keys."""
    yield "A node's own", _rows(NodeConfig)
    yield (FloorKeys.__doc__ or "").partition("\n")[0], _rows(FloorKeys)


def node_rows() -> list[KeyRow]:
    """The keys of a node."""
    return [row for _, rows in node_groups() for row in rows]


def markdown() -> str:
    """The content of ``docs/configuration.md``."""
    parts = [_HEAD]
    for title, rows in groups():
        parts.append(f"## {title}\n\n{_table(rows)}")
    for head, (_, rows) in zip((_NODE, _FLOOR), node_groups(), strict=True):
        parts.append(f"{head}\n{_table(rows)}")
    return "\n".join(parts)


def _table(rows: list[KeyRow]) -> str:
    return markdown_table(("key", "default", "allowed", "meaning"), map(_cells, rows), "l")


def _cells(row: KeyRow) -> list[str]:
    mark = " ↻" if row.free else ""
    default = f"`{row.default}`" if row.default else ""
    cells = (f"`{row.key}`{mark}", default, row.allowed, row.meaning)
    return [cell.replace("|", "\\|") for cell in cells]


def _rows(group: type[FlatConfig]) -> list[KeyRow]:
    return [
        KeyRow(
            kebab(name),
            "" if field.is_required() else _shown(field.default),
            _allowed(field),
            field.description or "",
            not issubclass(group, FloorKeys) and kebab(name) in FREE_KEYS,
        )
        for name, field in group_keys(group).items()
    ]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if value == "" else str(value)


def _allowed(field: FieldInfo) -> str:
    """Choices, or the type with its limits."""
    choices = _choices(field)
    if choices:
        return ", ".join(value or '""' for value in choices)
    limits = [
        f"{sign} {getattr(limit, attribute)}"
        for limit in field.metadata
        for kind, (attribute, sign) in _SIGNS.items()
        if isinstance(limit, kind)
    ]
    names = {int: "whole number", float: "number", bool: "true, false", str: "text"}
    return " ".join([names[field.annotation], ", ".join(limits)]).strip()  # type: ignore[index]


def _choices(field: FieldInfo) -> tuple[str, ...]:
    if get_origin(field.annotation) is Literal:
        return get_args(field.annotation)
    return next((m.known for m in field.metadata if isinstance(m, OneOf)), ())
