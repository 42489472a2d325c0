"""How a node answers a server whose LUMOS is of another release: with its own LUMOS.

An app that is neither installed nor approved never runs (``app_gate.py``). If it says that it is
LUMOS of another release, the node works for its runs all the same, with the code that is installed
here: of the app that was sent, nothing is unpacked, imported or run. So what it says need not be
proven: a server that says it falsely gets the same answers from the same code. Whether the two
releases work together is decided by their protocols (:mod:`lumos_core.wire.versions`), when the
installed app has read the first message.

What is read of the app is the data in its ``pyproject.toml``: its name and release, and the keys of
a run with their defaults. The table ``tool.lumos.as-before`` lists keys that not every release has,
with the values that stand for a run without them. With it a node translates the configuration:

* a key that only the server has must have that value, and is left out; any other value asks for
  something that this node cannot do, and the run is refused;
* a key that only the node has gets that value, not today's default.

An app of the installed release that differs from it is somebody's own and stays foreign.
``app_gate.py`` loads this file by its path, so it imports nothing but the standard library.
"""

import re
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

Value = str | int | float | bool
AS_BEFORE = "as-before"
_RELEASE = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}[0-9a-z.+-]{0,20}")
_SHOWN = 60


class UntranslatableError(ValueError):
    """A run asks for what this node's release does not have; quotes the server."""


class Project(NamedTuple):
    """What an app's ``pyproject.toml`` says.

    Attributes:
        name: the project's.
        app: publisher and components.
        release: the project's version.
        protocol: that of the release; 0 if it names none.
        defaults: the keys of a run.
        as_before: see above.
    """

    name: str
    app: tuple[object, ...]
    release: str
    protocol: int
    defaults: dict[str, Value]
    as_before: dict[str, Value]

    @classmethod
    def read(cls, content: bytes) -> "Project | None":
        """The content of ``pyproject.toml``; None if it is not as LUMOS writes it."""
        try:
            table = tomllib.loads(content.decode())
            project, app = table["project"], table["tool"]["flwr"]["app"]
            own = table["tool"].get("lumos", {})
            found = cls(
                str(project["name"]),
                (app["publisher"], app["components"]),
                str(project["version"]),
                own.get("protocol", 0),
                _values(app["config"]),
                _values(own.get(AS_BEFORE, {})),
            )
        except Exception:  # a server may send anything
            return None
        return found if _RELEASE.fullmatch(found.release) else None

    def is_other_release_of(self, installed: "Project") -> bool:
        """Whether this is the installed app by name, but of another release."""
        same = (self.name, self.app) == (installed.name, installed.app)
        return same and self.release != installed.release


def translated(sent: Project, changes: Mapping[str, Value], installed: Project) -> dict[str, Value]:
    """The configuration of a server's run in the keys of the installed release, all of them.

    Args:
        sent: the server's app.
        changes: values of the run that differ from that app's defaults.
        installed: this node's app.

    Raises:
        UntranslatableError: it has no equivalent here.
    """
    wanted = {**sent.defaults, **changes}
    for key in sorted(wanted.keys() - installed.defaults.keys()):
        if key not in sent.as_before or wanted[key] != sent.as_before[key]:
            raise UntranslatableError(
                f"the run sets {_shown(key)} = {_shown(wanted[key])}, which LUMOS "
                f"{installed.release} does not have; install LUMOS {sent.release} here"
            )
    known = {**sent.as_before, **installed.as_before, **wanted}
    for key in sorted(installed.defaults.keys() - known.keys()):
        raise UntranslatableError(
            f"the run does not set {key}, which LUMOS {installed.release} needs; install LUMOS "
            f"{sent.release} here"
        )
    return {key: known[key] for key in installed.defaults}


def _values(table: Mapping[str, Any]) -> dict[str, Value]:
    """A flat table of plain values; raises ValueError if it is another one."""
    if not all(isinstance(value, Value) for value in table.values()):
        raise ValueError("a value is not plain")
    return dict(table)


def _shown(text: object) -> str:
    """What a server has chosen, fit for a terminal."""
    return ascii(str(text))[1:-1][:_SHOWN]
