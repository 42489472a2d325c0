"""``lumos recommend`` and ``lumos export``: using a trained model."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lumos_core.cli.screens import NO_VALUE
from lumos_core.data import Catalog, Sequences
from lumos_core.data.catalog import short_fingerprint
from lumos_core.data.sequences import Items
from lumos_core.errors import ConfigError, DataError
from lumos_core.learning.devices import check_device
from lumos_core.terminal.progress import Progress

if TYPE_CHECKING:  # these import torch
    from lumos_core.recommend.model_files import ModelCard
    from lumos_core.recommend.recommender import Recommendation, Recommender

_SHOWN_HISTORY = 5


def recommend_command(
    data: Annotated[Path, typer.Option(help="A node's data folder.")],
    user: Annotated[str, typer.Option(help="A user's id in the node's interactions.")] = "",
    everyone: Annotated[
        bool, typer.Option("--all", help="Every user of the node; written to the file --out.")
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Exported folder, run folder or model file (default: the model that this node "
            "kept from training)."
        ),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="The node's state folder (default: state in --data).")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Items per user.")] = 10,
    reasons: Annotated[int, typer.Option(min=0, help="Items of the history given as reasons.")] = 2,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Recommend items of the history, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Parquet file to write with --all.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
) -> None:
    """Recommend items to users of this node, from their local histories. Nothing is sent."""
    if bool(user) == everyone:
        raise ConfigError("say whom for: either --user ID or --all")
    if everyone != (out is not None) or (everyone and as_json):
        raise ConfigError("--all writes the file --out; --user prints a table, or JSON with --json")
    check_device(device)
    catalog, users = _read(data)
    if user and user not in users.user_ids:
        raise DataError(
            f"{data}: no interaction of user {user!r}, so no history to go by; ids of its "
            f"{len(users)} users are in the user column of the interactions"
        )
    # these import torch, which takes a while: the mistakes above are reported without it
    from lumos_core.recommend.model_files import kept_model, load_model, model_file_at, read_model
    from lumos_core.recommend.recommender import Recommender

    path = model_file_at(model) if model else kept_model(state or data / "state", catalog)
    loaded = load_model(path, catalog, device)
    recommender = Recommender(loaded, catalog, top=top, reasons=reasons, include_seen=include_seen)
    if out is not None:
        _export_all(recommender, users, out)
        return
    history = users[users.user_ids.index(user)]
    found = recommender.for_user(history)
    if as_json:
        typer.echo(_as_json(user, path, read_model(path)[1], history, catalog, found))
    else:
        _show(user, path, read_model(path)[1], history, catalog, found)


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of 'lumos train-central'.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: new or empty.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the model that is in the folder.")
    ] = False,
    onnx: Annotated[
        Path | None,
        typer.Option(
            metavar="CATALOG",
            help="Also write model.onnx, for programs without PyTorch; the run's catalog.tsv.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a run's best model as safetensors with its sizes, metrics and catalog fingerprint."""
    # these import torch
    from lumos_core.recommend.export import export_model
    from lumos_core.recommend.model_files import CONFIG_FILE, MODEL_FILE

    public = _catalog_for_onnx(run, onnx) if onnx is not None else None
    card = export_model(run, out, force=force)
    console = Console(soft_wrap=True, highlight=False)
    catalog = short_fingerprint(card.catalog)
    console.print(f"{_origin(card)}; catalog {catalog}…, {card.shape.num_items} items")
    console.print(f"written: {out / MODEL_FILE}, {CONFIG_FILE}", markup=False)
    if public is not None:
        _write_onnx(out, public, console)


def _catalog_for_onnx(run: Path, path: Path) -> Catalog:
    """The catalog of an export to ONNX, which needs its titles; checked before anything is
    written."""
    from lumos_core.recommend.model_files import load_model
    from lumos_core.recommend.onnx_export import check_packages

    check_packages()
    catalog = Catalog.read(path)
    load_model(run, catalog)
    return catalog


def _write_onnx(out: Path, catalog: Catalog, console: Console) -> None:
    from lumos_core.recommend.export import ONNX_FILE
    from lumos_core.recommend.model_files import load_with_card
    from lumos_core.recommend.onnx_export import write_onnx

    difference = write_onnx(out / ONNX_FILE, *load_with_card(out, catalog), catalog)
    console.print(
        f"written: {out / ONNX_FILE}, compared with the model on random histories: scores differ "
        f"by at most {difference:.1g}",
        markup=False,
    )


def _read(data: Path) -> tuple[Catalog, Sequences]:
    """The node's catalog and users. Users with one or two interactions are included: they are too
    few for training, but enough for a recommendation."""
    # these import polars
    from lumos_core.data.node_folder import read_node
    from lumos_core.data.prepared_folder import DATASET_FILE, node_folders

    if (data / DATASET_FILE).is_file():
        folders = node_folders(data)
        raise DataError(
            f"{data}: holds the data of {len(folders)} nodes, expected that of one, such as "
            f"{folders[0]}"
        )
    return read_node(data, min_history=1)


def _export_all(recommender: "Recommender", users: Sequences, out: Path) -> None:
    from lumos_core.recommend.recommender import export_parquet  # imports torch

    if out.is_dir():
        raise DataError(f"{out}: found a folder, expected the name of a Parquet file")
    console = Console(soft_wrap=True, highlight=False)
    with Progress(console) as progress:
        task = progress.task("recommendations", total=len(users), unit="users")
        export_parquet(recommender, users, out, task.advance)
    console.print(f"written: {out}", markup=False)


def _as_json(
    user: str,
    path: Path,
    card: "ModelCard",
    history: Items,
    catalog: Catalog,
    found: "list[Recommendation]",
) -> str:
    return json.dumps(
        {
            "user": user,
            "model": {"path": str(path), "round": card.round, "final": card.final},
            "history": [
                {"item_id": catalog.item_id(i), "title": catalog.title(i)} for i in history.tolist()
            ],
            "recommendations": [asdict(r) for r in found],
        },
        indent=2,
        ensure_ascii=False,
    )


def _show(
    user: str,
    path: Path,
    card: "ModelCard",
    history: Items,
    catalog: Catalog,
    found: "list[Recommendation]",
) -> None:
    console = Console(highlight=False)
    console.print(f"{_origin(card)}  [dim]{escape(str(path))}[/]", soft_wrap=True)
    recent = [catalog.title(i) for i in history[-_SHOWN_HISTORY:].tolist()]
    more = f"… {len(history) - len(recent)} earlier, " if len(history) > len(recent) else ""
    console.print(f"history: {more}{escape(' · '.join(recent))}", soft_wrap=True)
    table = Table("", "item", "title", "score", "because of", title=escape(f"For {user}"))
    for number in (table.columns[0], table.columns[3]):
        number.justify, number.no_wrap = "right", True
    for r in found:
        reasons = (f"{escape(reason.title)} ({reason.similarity:.2f})" for reason in r.reasons)
        row = (str(r.rank), escape(r.item_id), escape(r.title), f"{r.score:.2f}")
        table.add_row(*row, "\n".join(reasons) or NO_VALUE)
    console.print(table)
    if not found:
        console.print(
            "no items left: the history has every item of the catalog; see --include-seen"
        )


def _origin(card: "ModelCard") -> str:
    what = "best model of a finished run" if card.final else "model of a run"
    metric = card.test.get("ndcg@20")
    measured = f", test NDCG@20 {metric:.4f}" if metric is not None else ""
    return f"{what}, round {card.round}{measured}"
