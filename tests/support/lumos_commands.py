"""What the ``lumos`` command reads in the words after its name, without doing it."""

from typing import Any

import click
import typer

from lumos_core.cli.app import app


def options_of(words: list[str]) -> dict[str, Any]:
    """The options and arguments of a command.

    Raises:
        click.ClickException: the program does not understand the words.
    """
    command: Any = typer.main.get_command(app)
    context = click.Context(command)
    while isinstance(command, click.Group):
        _, command, words = command.resolve_command(context, words)
    options: dict[str, Any] = command.make_context("lumos", list(words), parent=context).params
    return options
