"""``lumos prepare``: from a published data set to a catalog and a data folder per node."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lumos_core.cli.log_options import (
    DropMissing,
    Header,
    ItemColumn,
    Separator,
    TimeColumn,
    TimeFormat,
    UserColumn,
)
from lumos_core.data.sample import SAMPLE_DOMAIN, bundled_sample
from lumos_core.terminal.progress import Progress

if TYPE_CHECKING:
    from lumos_core.data.prepare import PreparedDataset


def _formats(incomplete: str) -> list[str]:
    """Values of ``--format``, for the shell's completion."""
    from lumos_core.data.importers.detect import formats  # imports polars

    return [name for name in formats() if name.startswith(incomplete)]


def prepare_command(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder, or file with the interactions; 'sample' is the data set that ships with "
            "LUMOS."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write: new, empty, or with the same data.")],
    source_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            autocompletion=_formats,
            help="auto, or table: interactions.(tsv|csv|jsonl|parquet) with items.*; amazon: "
            "reviews and metadata in JSON lines; mind: behaviors.tsv, news.tsv; recbole: .inter, "
            ".item; or a format of a plug-in.",
        ),
    ] = "auto",
    nodes: Annotated[int, typer.Option(min=1, help="Nodes to distribute the users over.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Decides which user goes to which node.")] = 0,
    partition: Annotated[
        Literal["uniform", "skewed"],
        typer.Option(help="Nodes of equal size, or of sizes 1, 1/2, 1/3, …"),
    ] = "uniform",
    k_core: Annotated[
        int,
        typer.Option(
            min=0, help="Keep users and items with at least this many interactions; 0: off"
        ),
    ] = 5,
    min_interactions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Interactions that a user must have, whatever --k-core says of items (default: "
            "--k-core, and 3 at least). With fewer than 3, only runs with evaluation = last-days "
            "or none take such users.",
            show_default=False,
        ),
    ] = None,
    dedup: Annotated[
        Literal["exact", "item", "none"],
        typer.Option(
            help="Repeats to drop. exact: of the same user, item and time (--order file: of the "
            "same item in a row of the user's); item: of the same user and item; none."
        ),
    ] = "exact",
    items: Annotated[
        Path | None,
        typer.Option(
            help="File with items and titles, if not beside the source; or a run's catalog.tsv, to "
            "keep all of its items, in its order, and no others."
        ),
    ] = None,
    unknown_items: Annotated[
        Literal["auto", "error", "drop", "keep"],
        typer.Option(
            help="What to do with interactions whose item is not in the list of items. auto: error "
            "for tables and RecBole, keep (with the id as title) for Amazon and MIND, drop where "
            "--items is a run's catalog.tsv."
        ),
    ] = "auto",
    keep_all_items: Annotated[
        bool, typer.Option("--keep-all-items", help="Keep items that are in no history, too.")
    ] = False,
    impression_clicks: Annotated[
        bool, typer.Option("--impression-clicks", help="MIND: append clicks in impressions.")
    ] = False,
    user_column: UserColumn = "",
    item_column: ItemColumn = "",
    items_id_column: Annotated[
        str,
        typer.Option(help="Name of the column with ids in the list of items, if it is another."),
    ] = "",
    time_column: TimeColumn = "",
    time_format: TimeFormat = "",
    title_column: Annotated[
        str,
        typer.Option(
            help="Name of the column with titles: in the list of items, or in the log if there is "
            "no list."
        ),
    ] = "",
    items_header: Annotated[
        bool,
        typer.Option(
            "--items-header/--items-no-header",
            help="--items-no-header: the first line of the list of items is an item, and columns "
            "are called 1, 2, ….",
        ),
    ] = True,
    separator: Separator = "",
    header: Header = True,
    order: Annotated[
        Literal["time", "file"],
        typer.Option(help="Histories are in the order of the time column, or of the file's rows."),
    ] = "time",
    drop_missing: DropMissing = False,
    domain: Annotated[
        Literal["products", "films", "games", "news", "books", "music", "places"] | None,
        typer.Option(
            help="What the items are, for the language model (key llm-noun of a run). Default for "
            "Amazon: products, for MIND: news.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the data set (default: the source's).")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Replace other prepared data in the folder.")
    ] = False,
) -> None:
    """Turn a data set into a catalog and one data folder per node.

    All interactions of a user go to one node. Malformed input is reported with file and line, and
    nothing is written.
    """
    # these import polars
    from lumos_core.data.prepare import STEPS, prepare
    from lumos_core.data.reading.columns import Columns
    from lumos_core.data.reading.delimited import separator_of

    columns = Columns(
        user_column, item_column, time_column, title_column, items_id_column,
        separator_of(separator) if separator else "", header, order == "file", drop_missing,
        items_header, time_format,
    )  # fmt: skip
    is_sample = source == "sample" and not Path(source).exists()
    with Progress() as progress:
        task = progress.task("prepare", total=len(STEPS), note=STEPS[0])
        dataset = prepare(
            bundled_sample() if is_sample else Path(source),
            out,
            nodes=nodes,
            seed=seed,
            k_core=k_core,
            min_interactions=min_interactions,
            source_format=source_format,
            items=items,
            columns=columns,
            dedup=dedup,
            unknown_items=unknown_items,
            partition=partition,
            keep_all_items=keep_all_items,
            impression_clicks=impression_clicks,
            name=name,
            domain=domain or (SAMPLE_DOMAIN if is_sample else None),
            force=force,
            on_step=lambda done: task.update(done, note=STEPS[done] if done < len(STEPS) else ""),
        )
    warn = Console(stderr=True, soft_wrap=True, highlight=False)
    # orders of the sample have several items, all of one time: nobody can, or has to, mend that
    for warning in () if is_sample else dataset.warnings:
        warn.print("warning:", style="bold yellow", end=" ")
        warn.print(warning, markup=False)
    console = Console(highlight=False)
    console.print(summary_table(dataset))
    console.print(dataset.rows.sentence(), soft_wrap=True)
    if dataset.columns:
        names = {"user_id": "users", "item_id": "items", "timestamp": "times"}
        taken = ", ".join(f"{names[new]} from {old!r}" for new, old in dataset.columns.items())
        console.print(f"columns: {taken}", markup=False, soft_wrap=True)
    console.print(dataset.titles, markup=False, soft_wrap=True)
    console.print("catalog fingerprint", style="bold")  # on a line of its own: it must not fold
    console.print(f"  {dataset.fingerprint}", soft_wrap=True)
    state = "already there, unchanged" if dataset.reused else "written"
    console.print(f"{state}: {dataset.folder}", markup=False, soft_wrap=True)


def summary_table(dataset: "PreparedDataset") -> Table:
    """A table of a prepared data set's counts, for the terminal."""
    least, median, mean, most = dataset.lengths
    dropped = dataset.dropped
    table = Table(title=escape(dataset.name), show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("users", f"{dataset.users:,}")
    table.add_row("items", f"{dataset.items:,}")
    table.add_row("interactions", f"{dataset.interactions:,}")
    table.add_row("density", f"{dataset.density:.3%}")
    table.add_row("history lengths", f"{least} … {most}, median {median:g}, mean {mean:.1f}")
    table.add_section()
    by_core = f", {dropped.core_users:,} by the {dataset.k_core}-core" if dataset.k_core else ""
    table.add_row(
        "dropped users", f"{dropped.short_users:,} with fewer than {dataset.rows.least}{by_core}"
    )
    table.add_row("dropped items", f"{dropped.items:,} without interactions")
    table.add_section()
    for n, (users, count) in enumerate(
        zip(dataset.node_users, dataset.node_interactions, strict=True)
    ):
        table.add_row(f"node-{n}", f"{users:,} users, {count:,} interactions")
    table.add_row("seed", str(dataset.seed))
    table.add_row("domain", dataset.domain or "not known; --domain sets it, for the language model")
    return table
