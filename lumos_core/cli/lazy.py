"""Commands whose modules are imported only when they are called.

To list, complete and correct the names of commands, their names and short helps are enough. These
are written down in a table, so that ``lumos --help`` imports no command. A test compares the table
with the commands: ``tests/unit/cli/test_lazy.py``.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import click
import typer
from typer.core import TyperCommand, TyperGroup


class LazyCommand(TyperCommand):
    """A command, or a group of commands, in the list of commands: not imported yet.

    Args:
        name: its name on the command line.
        origin: ``module:name`` of its function, or of the ``typer.Typer`` of a group.
        help: the first paragraph of its help, on one line.
    """

    def __init__(self, name: str, origin: str, help: str) -> None:
        super().__init__(name, help=help)
        self._origin = origin

    def load(self) -> click.Command:
        """Import the command itself."""
        module, _, attribute = self._origin.partition(":")
        found = getattr(import_module(module), attribute)
        parent = typer.Typer()
        if isinstance(found, typer.Typer):
            parent.add_typer(found, name=self.name)
        else:
            parent.command(self.name)(found)
        (command,) = typer.main.get_group(parent).commands.values()
        return command


class LazyGroup(TyperGroup):
    """A group of commands that a subclass names in its table ``lazy``. Commands that are added in
    the usual way come after them.

    click lists commands with ``list_commands`` and ``get_command``, which return the table's
    entries. It runs a command and completes its arguments with ``resolve_command``, which returns
    the imported command.
    """

    lazy: ClassVar[tuple[LazyCommand, ...]] = ()

    def __init__(self, *, commands: Mapping[str, click.Command], **attributes: Any) -> None:
        super().__init__(commands=[*self.lazy, *commands.values()], **attributes)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name, imported."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest
