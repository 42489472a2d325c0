"""`lumos config`: every key of a run and of a node, with default, limits and meaning."""

from typing import Annotated

import typer

from lumos_core.config import reference
from lumos_core.errors import ConfigError


def config_command(
    keys: Annotated[
        list[str] | None, typer.Argument(help="Show only these; a part of a name is enough.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print all keys as docs/configuration.md.")
    ] = False,
) -> None:
    """Show the keys of a run and of a node: default, allowed values, meaning."""
    if markdown:
        typer.echo(reference.markdown(), nl=False)
        return
    wanted = keys or [""]
    found = False
    for title, rows in [*reference.groups(), *reference.node_groups()]:
        shown = [row for row in rows if any(part in row.key for part in wanted)]
        if shown:
            found = True
            _print_group(title, shown)
    if not found:
        raise ConfigError(
            f"no key contains {' or '.join(map(repr, wanted))}; 'lumos config' shows all"
        )
    typer.echo("\n↻ may change when a run is resumed")


def _print_group(title: str, rows: list[reference.KeyRow]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    console.print(f"\n[bold]{title}[/]")
    for row in rows:
        mark = " ↻" if row.free else ""
        console.print(Text.assemble((row.key, "cyan"), f" = {row.default}{mark}"))
        meaning = Text.assemble(f"{row.meaning} ", (f"({row.allowed})", "dim"))
        console.print(Padding(meaning, (0, 0, 0, 4)))
