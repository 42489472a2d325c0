"""``lumos llm check`` and ``lumos views``: build, show, list, gc."""

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lumos_core.cli.options import ConfigOption, defaults_for, with_overrides
from lumos_core.cli.screens import results_table
from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data import Catalog, LeaveOneOut, Sequences
from lumos_core.data.layout import shared_state
from lumos_core.data.sequences import MIN_HISTORY
from lumos_core.data.splits import least_history, split_of
from lumos_core.errors import ConfigError, DataError
from lumos_core.terminal.progress import PERCENT, Progress, Task
from lumos_core.views.build import BuildProgress
from lumos_core.views.item_names import ItemNames
from lumos_core.views.llm.load import idle_threads
from lumos_core.views.provenance import Writer, writer_of
from lumos_core.views.source import STORE, take_over, view_source
from lumos_core.views.titles.resumable import WAITING, OnStage, StageProgress
from lumos_core.views.view import UserViews
from lumos_core.views.view_store import ViewStore, WriterCount
from lumos_core.views.writers.choose import view_factory

_STAGES = {
    "titles": "titles read, once per catalog",
    "priors": "titles judged after unrelated histories",
    "substitutes": "items compared with similar items",
}
"""Notes on the stages of :mod:`lumos_core.views.titles.judgements`, shown beside the bar."""
_WAITING = "waiting for another process, which prepares this catalog"
_WAITED = "waited for another process"

llm_app = typer.Typer(help="The local language model.", no_args_is_help=True)
views_app = typer.Typer(
    help="The views that the language model writes of users' histories.", no_args_is_help=True
)

LLMOption = Annotated[
    str | None,
    typer.Option(help="smollm2 (bundled), Hugging Face id, local folder or .gguf file."),
]
QuantizationOption = Annotated[
    Literal["none", "8bit", "4bit"] | None,
    typer.Option(help="How bitsandbytes quantises the weights."),
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
    from lumos_core.views.llm_check import check_llm  # imports polars

    run = configured(config, llm, quantization, None)
    console = Console()
    with Progress(console) as progress:
        task = progress.task("model", note="loading, then an example")
        report = check_llm(run, catalog_stages(progress))
        task.update(1, total=1, note=f"loaded in {report.load_seconds:.1f} s")
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
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="One store for the users of all nodes, for 'lumos compare --partition drawn'. "
            "Views in the nodes' stores are taken over.",
        ),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Write the views of all users of all nodes in a folder; stored views are not written again.

    Ctrl-C is safe at any time: the next call resumes where this one ended.
    """
    run = configured(config, llm, quantization, data)
    console = Console()
    stored = generated = 0
    for folder in [data] if shared else _nodes(data):
        try:
            done = (_build_shared if shared else _build_node)(run, folder, console)
        except KeyboardInterrupt:
            console.print("interrupted; finished batches are stored, call again to resume")
            raise typer.Exit(130) from None
        stored, generated = stored + done.stored, generated + done.generated
    console.print(f"{generated} views written, {stored} were there already")


@views_app.command("show")
def show_command(
    data: DataFolder,
    user: Annotated[str, typer.Option(help="Id of the user.")],
    writer: Annotated[
        str,
        typer.Option(
            help="Show stored views of this writer, and write none: the fingerprint that 'lumos "
            "views list' shows, or its beginning."
        ),
    ] = "",
    llm: LLMOption = None,
    quantization: QuantizationOption = None,
    config: ConfigOption = None,
) -> None:
    """One user's history and its three views side by side; missing views are written."""
    if writer and (llm or quantization or config):
        raise ConfigError(
            "--writer already decides how the views were written; leave out --llm, --quantization "
            "and -c"
        )
    folder, catalog, sequences, position = _find_user(data, user)
    train = LeaveOneOut(sequences).train().subset([position])
    console = Console()
    if writer:
        by, views = _stored_views(folder, writer, user, catalog, train[0].tolist())
    else:
        run = configured(config, llm, quantization, data)
        by, views = _views_of(run, folder, catalog, train, console)
    table = _side_by_side(f"User {user} ({folder})", catalog, train[0].tolist(), views)
    table.caption = "history: without the last two items, which are held out for evaluation"
    console.print(table)
    console.print(f"written by {by.short}  {by}", markup=False, highlight=False, soft_wrap=True)


@views_app.command("list")
def list_command(data: DataFolder) -> None:
    """List who wrote the stored views, node by node, and how many."""
    rows: list[list[str]] = []
    stores = [(folder.name, _store(folder)) for folder in _nodes(data)]
    for name, store in [*stores, ("shared by all nodes", shared_state(data) / STORE)]:
        counts = _writers(store)
        if counts:
            rows.append([name])
        for writer, views in counts:
            shown = (
                ["not known (an older LUMOS)", str(views), "", ""]
                if writer is None
                else [str(writer), str(views), writer.version, writer.short]
            )
            rows.append(shown)
    console = Console()
    if not rows:
        console.print("no views are stored; 'lumos views build' writes them", highlight=False)
        return
    console.print(results_table(("writer", "histories", "LUMOS", "fingerprint"), rows))


@views_app.command("gc")
def gc_command(
    data: DataFolder,
    other_writers: Annotated[
        bool,
        typer.Option(
            "--other-writers",
            help="Also views of all writers but the configured one: after a change of the model, "
            "of a setting, or of the catalog.",
        ),
    ] = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove them; without it they are only counted.")
    ] = False,
    llm: LLMOption = None,
    quantization: QuantizationOption = None,
    config: ConfigOption = None,
) -> None:
    """Count views that nobody needs any more: of histories that no user has now.

    A history grows, its views are written anew, and the old ones stay. Removed views that are
    needed after all are written again.
    """
    if not other_writers and (llm or quantization or config):
        raise ConfigError("--llm, --quantization and -c choose the writer for --other-writers")
    run = configured(config, llm, quantization, data) if other_writers else None
    console, removed = Console(), 0
    for name, folders, path in _stores(data):
        catalog, users = _users_of(folders)
        histories = [history.tolist() for history in LeaveOneOut(users).train()]
        with ViewStore(path, items=ItemNames(catalog)) as store:
            total, unneeded = len(store), store.others(histories)
            if run is not None:
                unneeded |= store.not_by(view_factory(run, _node(folders[0]), catalog)[0])
            if delete and unneeded:
                store.remove(unneeded)
        removed += len(unneeded)
        console.print(
            f"{name}: {len(unneeded):,} of {total:,} views are not needed", highlight=False
        )
    if not removed:
        console.print("nothing to remove")
    elif delete:
        console.print(f"{removed:,} views removed", highlight=False)
    else:
        console.print("nothing was removed; --delete removes these views", highlight=False)


def _stores(data: Path) -> Iterator[tuple[str, list[Path], Path]]:
    """The stores that are there: name, the data folders whose users' views they hold, file."""
    nodes = _nodes(data)
    for folder in nodes:
        if _store(folder).is_file():
            yield folder.name, [folder], _store(folder)
    shared = shared_state(data) / STORE
    if shared.is_file():
        yield "shared by all nodes", nodes, shared


def _users_of(folders: Sequence[Path]) -> tuple[Catalog, Sequences]:
    from lumos_core.data.node_folder import read_node  # imports polars

    parts = [read_node(folder) for folder in folders]
    return parts[0][0], Sequences.concat([users for _, users in parts])


def _views_of(
    run: RunConfig, folder: Path, catalog: Catalog, history: Sequences, console: Console
) -> tuple[Writer, UserViews]:
    """One history's views by the configured writer, written if they are missing."""
    node = _node(folder)
    with Progress(console) as progress:  # stays empty unless the catalog has to be prepared
        views = view_source(run, node, catalog, on_stage=catalog_stages(progress))(history)
    return writer_of(run, node, view_factory(run, node, catalog)[0]), views[0]


def _stored_views(
    folder: Path, chosen: str, user: str, catalog: Catalog, history: list[int]
) -> tuple[Writer, UserViews]:
    """One history's views by the writer whose fingerprint begins with ``chosen``."""
    known = [writer for writer, _ in _writers(_store(folder)) if writer is not None]
    found = [writer for writer in known if writer.fingerprint.startswith(chosen.lower())]
    if len(found) != 1:
        names = ", ".join(f"{writer.short} ({writer})" for writer in known) or "none"
        raise DataError(
            f"--writer {chosen}: {len(found)} writers in {_store(folder)} have a fingerprint that "
            f"begins so, expected one; known are: {names}"
        )
    (writer,) = found
    with ViewStore(_store(folder), items=ItemNames(catalog)) as store:
        key = store.key(writer.fingerprint, history)
        views = store.get_many([key]).get(key)
    if views is None:
        raise DataError(
            f"--writer {chosen}: no views of user {user!r} by {writer}; without --writer they are "
            "written by the configured writer"
        )
    return writer, views


def _writers(path: Path) -> list[WriterCount]:
    """The writers in a store; a missing store is not created."""
    if not path.is_file():
        return []
    with ViewStore(path) as store:
        return store.writers()


def _store(folder: Path) -> Path:
    return NodeConfig(data=str(folder)).state_folder / STORE


def configured(
    assignments: list[str] | None, llm: str | None, quantization: str | None, data: Path | None
) -> RunConfig:
    """The run's configuration by the options of a command; of prepared data if they are given."""
    changes: dict[str, Any] = {}
    if llm is not None:
        changes["llm"] = llm
    if quantization is not None:
        changes["llm_quantization"] = quantization
    base = RunConfig() if data is None else defaults_for(data)
    return with_overrides(base, assignments).replace(**changes)


def _node(folder: Path, state: Path | None = None) -> NodeConfig:
    """A node that uses the cores that are idle now."""
    return NodeConfig(data=str(folder), state=str(state or ""), threads=idle_threads())


def _nodes(data: Path) -> list[Path]:
    """The node folders of a prepared folder; for a node's folder, that folder alone."""
    from lumos_core.data.prepared_folder import node_folders  # imports polars

    return node_folders(data) if (data / "dataset.json").is_file() else [data]


def _build_node(run: RunConfig, folder: Path, console: Console) -> BuildProgress:
    """Build one node's views and show the progress; returns the final counts."""
    from lumos_core.data.node_folder import read_node  # imports polars

    return _build(
        run,
        _node(folder),
        folder.name,
        lambda: read_node(folder, least_history(run.evaluation)),
        console,
    )


def _build_shared(run: RunConfig, data: Path, console: Console) -> BuildProgress:
    """As :func:`_build_node`, for the users of all nodes of a prepared folder, in one store."""
    from lumos_core.data.pooled import pool  # these import polars
    from lumos_core.data.prepared_folder import load_prepared, node_folders

    folders = node_folders(data)
    node = _node(folders[0], shared_state(data))

    def read() -> tuple[Catalog, Sequences]:
        least = least_history(run.evaluation)
        catalog, nodes = load_prepared(data, least)
        users = pool(data, catalog, nodes, least).users
        for folder in folders:
            take_over(run, node, _node(folder), catalog, split_of(run, users).train())
        return catalog, users

    return _build(run, node, data.name, read, console)


def _build(
    run: RunConfig,
    node: NodeConfig,
    name: str,
    read: Callable[[], tuple[Catalog, Sequences]],
    console: Console,
) -> BuildProgress:
    last = BuildProgress(0, 0, 0, 0.0)
    with Progress(console) as progress:
        task = progress.task(name, unit="users", note="reading the data")
        catalog, sequences = read()
        if sequences.left_out:
            console.print(f"{name}: {sequences.users_text}", markup=False, highlight=False)

        def show(built: BuildProgress) -> None:
            nonlocal last
            last = built
            done = built.stored + built.generated
            task.update(done, total=built.total, note=note_on(built))

        source = view_source(
            run, node, catalog, on_progress=show, on_stage=catalog_stages(progress)
        )
        source(split_of(run, sequences).train())
    return last


def catalog_stages(progress: Progress) -> OnStage:
    """Returns what shows the preparation of the catalog, one task per stage, when it happens."""
    tasks: dict[str, Task] = {}
    waiting: list[Task] = []

    def show(stage: StageProgress) -> None:
        if stage.stage == WAITING:
            if not stage.done:
                waiting.append(progress.task("catalog", unit=PERCENT, note=_WAITING))
            else:
                waiting.pop().update(1, total=1, note=_WAITED)
            return
        note = _STAGES.get(stage.stage)
        if note is None:
            return
        if stage.stage not in tasks:
            tasks[stage.stage] = progress.task("catalog", stage.total, "items", note)
        tasks[stage.stage].update(stage.done)

    return show


def note_on(built: BuildProgress) -> str:
    """The note beside a node's progress."""
    if not built.missing:
        return f"{built.generated} written, {built.stored} stored"
    return "" if built.generated else "preparing the model"


def _find_user(data: Path, user: str) -> tuple[Path, Catalog, Sequences, int]:
    from lumos_core.data.node_folder import read_node  # imports polars

    for folder in _nodes(data):
        catalog, sequences = read_node(folder)
        if user in sequences.user_ids:
            return folder, catalog, sequences, sequences.user_ids.index(user)
    raise DataError(
        f"{data}: no user {user!r}; ids are in the column user_id of interactions.tsv; "
        f"users with fewer than {MIN_HISTORY} interactions have no views"
    )


def _side_by_side(title: str, catalog: Catalog, history: Sequence[int], views: UserViews) -> Table:
    """A row per position: the recent history with its paraphrase and counterfactual, and the
    future."""
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
