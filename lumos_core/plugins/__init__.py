"""Plug-ins: parts of LUMOS that other packages provide, found by entry points.

A package that adds a part names it in its own ``pyproject.toml``::

    [project.entry-points."lumos.codecs"]
    sign = "my_package.codecs:SIGN"

and the key ``delta-codec = sign`` finds it. The package must be installed on the server and on all
nodes of a run. Names of LUMOS's own parts are looked up first and take precedence, so a run without
plug-ins never searches. May import only `errors`. Begin with :func:`load`.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from lumos_core.errors import ConfigError

Kind = Literal["views", "aggregation", "importer", "codec", "encoder"]
GROUPS: dict[Kind, str] = {
    "views": "lumos.views",
    "aggregation": "lumos.aggregation",
    "importer": "lumos.importers",
    "codec": "lumos.codecs",
    "encoder": "lumos.encoders",
}
"""Entry-point groups; CONTRIBUTING.md describes the object that each of them needs."""


def names(kind: Kind) -> list[str]:
    """Names that installed packages offer, sorted; nothing is imported."""
    return sorted(entry_points(group=GROUPS[kind]).names)


def load(kind: Kind, name: str) -> Any:
    """The object behind a name.

    Raises:
        ConfigError: no package or more than one offers it, or it cannot be imported.
    """
    found = tuple(entry_points(group=GROUPS[kind], name=name))
    if not found:
        raise ConfigError(
            f"{kind} {name!r}: neither LUMOS nor an installed package has it (entry points of "
            f"group {GROUPS[kind]!r}: {', '.join(names(kind)) or 'none'}); install its package here"
        )
    if len(found) > 1:
        raise ConfigError(
            f"{kind} {name!r}: offered by {' and '.join(map(_told, found))}; uninstall all but one"
        )
    try:
        return found[0].load()
    except Exception as error:  # a module of another package may raise anything
        raise ConfigError(
            f"{kind} {name!r}: {_told(found[0])} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error


def _told(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist else "an unknown package"
    return f"{entry.value!r} of {package}"
