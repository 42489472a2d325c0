"""Options that say how a log of interactions is read; commands that read one share them."""

from typing import Annotated

import typer

UserColumn = Annotated[str, typer.Option(help="Name of the column with users.")]
ItemColumn = Annotated[str, typer.Option(help="Name of the log's column with items.")]
TimeColumn = Annotated[str, typer.Option(help="Name of the column with times.")]
TimeFormat = Annotated[
    str,
    typer.Option(
        help="How times are written, in the codes of strptime: '%d/%m/%Y %H:%M', or '%m%d%y'. "
        "Not needed for numbers, ISO 8601 and dates of e-mails.",
        metavar="FORMAT",
    ),
]
Separator = Annotated[
    str,
    typer.Option(
        help="What separates the log's fields: tab, comma, semicolon, pipe, space, any one "
        "character, or a few such as ::; detected if not given."
    ),
]
Header = Annotated[
    bool,
    typer.Option(
        "--header/--no-header",
        help="--no-header: the log's first line is a row, and columns are called 1, 2, ….",
    ),
]
DropMissing = Annotated[
    bool,
    typer.Option(
        "--drop-missing",
        help="Leave out rows without a user, an item or a time (empty, nan, None, null, NA).",
    ),
]
