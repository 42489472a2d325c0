"""``lumos llm check``, ``lumos views build`` and ``lumos views show``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lumos_core.cli.options import ConfigOption, defaults_for, with_overrides
from lumos_core.config import NodeConfig, RunConfig
from lumos_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.table import Table

    from lumos_core.data import Catalog, Sequences
    from lumos_core.views.build import Progress
    from lumos_core.views.pieces import OnStage, StageProgress
    from lumos_core.views.types import UserViews

_STAGES = {
    "titles": "titles read, once for all",
    "priors": "titles weighed by themselves",
    "substitutes": "items compared with their likes",
}
"""What is said about the stages of :mod:`lumos_core.views.tables`."""

llm_app = typer.Typer(help="The local language model.", no_args_is_help=True)
views_app = typer.Typer(help="The views it writes of histories.", no_args_is_help=True)

LLMOption = Annotated[
    str | None,
    typer.Option(help="smollm2 (bundled), Hugging Face id, local folder or .gguf file."),
]
QuantizationOption = Annotated[
    Literal["none", "8bit", "4bit"] | None, typer.Option(help="Of the weights, by bitsandbytes.")
]
DataFolder = Annotated[
    Path, typer.Argument(help="Folder that 'lumos prepare' wrote, or one node's data folder.")
]


@llm_app.callback()
def _llm_group() -> None:
    """Makes ``lumos llm`` a group although it has one command."""


@llm_app.command("check")
def check_command(
    llm: LLMOption = None, quantization: QuantizationOption = None, config: ConfigOption = None
) -> None:
    """Load the model; show memory, speed and one example of each view."""
    from rich.console import Console
    from rich.markup import escape

    from lumos_core.views.check import check_llm

    run = _configured(config, llm, quantization, None)
    console = Console()
    with _bar(console) as bar:
        task = bar.add_task("model", total=1, note="loading, then an example")
        report = check_llm(run, _stages(bar))
        bar.update(task, completed=1, note=f"loaded in {report.load_seconds:.1f} s")
    quantised = "" if run.llm_quantization == "none" else f", {run.llm_quantization} weights"
    for name, value in {
        "model": f"[bold]{escape(run.llm)}[/], {report.parameters / 1e6:,.0f} M parameters",
        "runs on": f"{report.device} in {report.dtype}{quantised}",
        "memory": f"{report.weight_bytes / 2**20:,.0f} MiB of weights, "
        f"{report.process_bytes / 2**20:,.0f} MiB for the process",
        "speed": f"{report.tokens_per_second:,.0f} tokens/s; "
        f"{report.view_seconds:.1f} s for the three views below (faster in batches)",
        "mode": f"{report.mode} (llm-mode = {run.llm_mode})",
    }.items():
        console.print(f"{name:>8}  {value}", highlight=False, soft_wrap=True)
    title = f"A customer of the bundled sample, {len(report.catalog)} items to choose from"
    console.print(_side_by_side(title, report.catalog, report.history, report.views))


@views_app.command("build")
def build_command(
    data: DataFolder,
    llm: LLMOption = None,
    quantization: QuantizationOption = None,
    config: ConfigOption = None,
) -> None:
    """Write the views of all users of all nodes in a folder; what is stored is not written again.

    Ctrl-C is safe at any time: the next call goes on where this one ended.
    """
    from rich.console import Console

    run = _configured(config, llm, quantization, data)
    console = Console()
    stored = generated = 0
    for folder in _nodes(data):
        try:
            done = _build_node(run, folder, console)
        except KeyboardInterrupt:
            console.print("interrupted; finished batches are stored, call again to go on")
            raise typer.Exit(130) from None
        stored, generated = stored + done.stored, generated + done.generated
    console.print(f"{generated} views written, {stored} were there already")


@views_app.command("show")
def show_command(
    data: DataFolder,
    user: Annotated[str, typer.Option(help="Id of the user.")],
    llm: LLMOption = None,
    quantization: QuantizationOption = None,
    config: ConfigOption = None,
) -> None:
    """One user's history and its three views side by side; missing views are written."""
    from rich.console import Console

    from lumos_core.data import LeaveOneOut
    from lumos_core.views.source import view_source

    run = _configured(config, llm, quantization, data)
    folder, catalog, sequences, position = _find_user(data, user)
    train = LeaveOneOut(sequences).train().subset([position])
    console = Console()
    with _bar(console) as bar:  # stays empty unless the catalog has to be prepared
        views = view_source(run, _node(folder), catalog, on_stage=_stages(bar))(train)
    table = _side_by_side(f"User {user} ({folder})", catalog, train[0].tolist(), views[0])
    table.caption = "history: without the last two items, which are held out for evaluation"
    console.print(table)


def _configured(
    assignments: list[str] | None, llm: str | None, quantization: str | None, data: Path | None
) -> RunConfig:
    changes: dict[str, Any] = {}
    if llm is not None:
        changes["llm"] = llm
    if quantization is not None:
        changes["llm_quantization"] = quantization
    base = RunConfig() if data is None else defaults_for(data)
    return with_overrides(base, assignments).replace(**changes)


def _node(folder: Path) -> NodeConfig:
    """A node that uses the cores that are idle now."""
    from lumos_core.views.llm import idle_threads

    return NodeConfig(data=str(folder), threads=idle_threads())


def _nodes(data: Path) -> list[Path]:
    """The node folders of a prepared folder; a node folder is its own."""
    from lumos_core.data.prepared import node_folders

    return node_folders(data) if (data / "dataset.json").is_file() else [data]


def _build_node(run: RunConfig, folder: Path, console: "Console") -> "Progress":
    """Build one node's views under a progress bar; returns how it ended."""
    from lumos_core.data import LeaveOneOut
    from lumos_core.data.node_data import read_node
    from lumos_core.views.build import Progress
    from lumos_core.views.source import view_source

    catalog, sequences = read_node(folder)
    if sequences.left_out:
        console.print(f"{folder.name}: {sequences.users_text}", markup=False, highlight=False)
    last = Progress(0, 0, 0, 0.0)
    with _bar(console) as bar:
        task = bar.add_task(folder.name, total=None, note="reading the store")
        began = 0.0  # when the first batch was done: loading must not spoil the estimate
        first = 0

        def show(progress: "Progress") -> None:
            nonlocal last, began, first
            if progress.generated and not began:
                began, first = progress.seconds, progress.generated
            last = progress
            speed = 0.0
            if progress.generated > first:
                speed = (progress.generated - first) / (progress.seconds - began)
            bar.update(
                task,
                total=progress.total,
                completed=progress.stored + progress.generated,
                note=pace(progress, speed),
            )

        source = view_source(run, _node(folder), catalog, on_progress=show, on_stage=_stages(bar))
        source(LeaveOneOut(sequences).train())
    return last


def _bar(console: "Console") -> "Bar":
    """A progress bar a task, each with a note."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _stages(bar: "Bar") -> "OnStage":
    """Shows the catalog's preparation, a line a stage, the first time it is needed."""
    tasks: dict[str, Any] = {}

    def show(progress: "StageProgress") -> None:
        note = _STAGES.get(progress.stage)
        if note is None:
            return
        if progress.stage not in tasks:
            tasks[progress.stage] = bar.add_task("catalog", total=progress.total, note=note)
        bar.update(tasks[progress.stage], completed=progress.done)

    return show


def pace(progress: "Progress", users_per_second: float) -> str:
    """What stands beside the progress bar."""
    if not progress.missing:
        return f"{progress.generated} written, {progress.stored} stored"
    if not progress.generated:
        return "loading the model"
    if not users_per_second:
        return ""
    left = progress.missing / users_per_second
    return f"{users_per_second:.1f} users/s, {left / 60:.0f} min {left % 60:02.0f} s left"


def _find_user(data: Path, user: str) -> tuple[Path, "Catalog", "Sequences", int]:
    from lumos_core.data.node_data import read_node
    from lumos_core.data.sequences import MIN_HISTORY

    for folder in _nodes(data):
        catalog, sequences = read_node(folder)
        if user in sequences.user_ids:
            return folder, catalog, sequences, sequences.user_ids.index(user)
    raise DataError(
        f"{data}: no user {user!r}; ids are in the column user_id of interactions.tsv; "
        f"users with fewer than {MIN_HISTORY} interactions have no views"
    )


def _side_by_side(
    title: str, catalog: "Catalog", history: "Sequence[int]", views: "UserViews"
) -> "Table":
    """A row a position: the recent history with its paraphrase and counterfactual, the future."""
    from itertools import zip_longest

    from rich.markup import escape
    from rich.table import Table

    recent = list(history)[-len(views.paraphrase) :]
    heads = (
        f"history (last {len(recent)})",
        "paraphrase",
        "counterfactual",
        "future (what follows)",
    )
    table = Table("", *heads, title=escape(title), show_lines=True)
    rows = zip_longest(recent, views.paraphrase, views.counterfactual, views.future)
    for number, row in enumerate(rows, start=1):
        table.add_row(str(number), *(escape(catalog.title(i)) if i else "" for i in row))
    return table
