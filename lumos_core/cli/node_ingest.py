"""``lumos node ingest``: append new interactions to this node's data."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from lumos_core.cli.log_options import (
    DropMissing,
    Header,
    ItemColumn,
    Separator,
    TimeColumn,
    TimeFormat,
    UserColumn,
)
from lumos_core.cli.node_options import Data, Settings, SomeBundle, State, node_settings


def ingest_command(
    log: Annotated[
        Path, typer.Argument(help="File or folder with interactions, as for 'lumos prepare'.")
    ],
    bundle: SomeBundle = None,
    unknown_items: Annotated[
        Literal["error", "drop"],
        typer.Option(
            help="Rows with items that the node's catalog lacks. error: take nothing; drop: take "
            "the others. The same log brings them once the catalog has these items."
        ),
    ] = "error",
    readmit: Annotated[
        list[str] | None,
        typer.Option(
            "--readmit", metavar="ID", help="A forgotten user who may come back; repeatable."
        ),
    ] = None,
    log_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="As for 'lumos prepare'.")
    ] = "auto",
    user_column: UserColumn = "",
    item_column: ItemColumn = "",
    time_column: TimeColumn = "",
    time_format: TimeFormat = "",
    separator: Separator = "",
    header: Header = True,
    drop_missing: DropMissing = False,
    data: Data = None,
    state: State = None,
    settings: Settings = None,
) -> None:
    """Append the new interactions of a log to this node's data, also while the node is running.

    Rows that are there already are not taken again, so a log may be given twice, and logs may
    overlap. A run that is going on keeps the data that it began with; the next one has the new.
    Rows of users who were forgotten are not taken.
    """
    # these import polars
    from lumos_core.data.forgotten_users import readmit_users
    from lumos_core.data.ingest import ingest
    from lumos_core.data.reading.columns import Columns
    from lumos_core.data.reading.delimited import separator_of

    node = node_settings(bundle, data, state, settings)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for user in readmit_users(node.state_folder, readmit or []):
        console.print(f"{user}: may come back")
    columns = Columns(
        user_column, item_column, time_column,
        separator=separator_of(separator) if separator else "",
        header=header, drop_missing=drop_missing, time_format=time_format,
    )  # fmt: skip
    done = ingest(
        log, Path(node.data), node.state_folder,
        log_format=log_format, columns=columns, unknown_items=unknown_items,
    )  # fmt: skip
    for warning in done.warnings:
        console.print(f"warning: {warning}")
    console.print(done.sentence())
    if done.unknown_items:
        named = ", ".join(map(repr, done.items))
        console.print(
            f"left out: items such as {named}; give this log again when catalog.tsv has them"
        )
    if done.added:
        console.print(f"{done.path}: the next run has them; one that is going on keeps its data")
    else:
        console.print(f"{done.path}: stays as it was")
