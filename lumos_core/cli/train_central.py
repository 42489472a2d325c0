"""`lumos train-central`: SASRec on pooled data, which federations are compared with."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lumos_core.cli.options import ConfigOption, check_out, defaults_for, measured, with_overrides
from lumos_core.config import RunConfig
from lumos_core.deployment.centralised_child import (
    METRICS_FILE,
    CentralisedMetrics,
    CentralisedResult,
)
from lumos_core.errors import ConfigError
from lumos_core.learning.devices import check_device
from lumos_core.learning.parameters import ModelShape
from lumos_core.runs.checkpoint import Checkpoint, RunProgress, save_checkpoint


def train_central_command(
    data: Annotated[Path, typer.Argument(help="Folder made by `lumos prepare`.")],
    out: Annotated[Path, typer.Option(help="Folder for model.safetensors and metrics.json.")],
    epochs: Annotated[int, typer.Option(min=1, help="Maximum number of epochs.")] = 150,
    patience: Annotated[
        int, typer.Option(min=1, help="Stop after this many epochs without a better NDCG@20.")
    ] = 10,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    semantic_start: Annotated[
        bool | None,
        typer.Option(
            help="Item embeddings from titles, as federated runs have by default (off, unless "
            "-c semantic-start=llm or tfidf).",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Train SASRec on all nodes' data in one place, and measure the popularity baseline."""
    # these import torch and polars
    from lumos_core.data.pooled import merged_text, pool
    from lumos_core.data.prepared_folder import load_prepared
    from lumos_core.experiments.jobs import library_versions
    from lumos_core.learning.baselines import popularity, train_centralised
    from lumos_core.learning.title_nearness import TitleNearness
    from lumos_core.learning.title_start import initial_params

    check_device(device)
    run = _configured(data, config, semantic_start)
    catalog, nodes = load_prepared(data)
    check_out(out)
    pooled = pool(data, catalog, nodes)
    users = pooled.users
    console = Console()
    console.print(f"{data.name}: {users.users_text}, {len(catalog)} items")
    if pooled.merged:
        console.print(f"[yellow]warning:[/] {merged_text(pooled.merged)}", soft_wrap=True)

    def on_epoch(epoch: dict[str, Any]) -> None:
        console.print(
            f"epoch {epoch['epoch']:>3}  loss {epoch['loss']:.4f}  validation HR@20 "
            f"{epoch['hr@20']:.4f}  NDCG@20 {epoch['ndcg@20']:.4f}  {epoch['seconds']:.1f} s"
        )

    params, result = train_centralised(
        run, users, initial_params(run, catalog),
        TitleNearness.of(catalog) if any(run.title_weights) else None,
        max_epochs=epochs, patience=patience, on_epoch=on_epoch, device=device,
    )  # fmt: skip
    popular = popularity(users, len(catalog))
    shape = ModelShape.of(run, len(catalog)).fingerprint
    best = result["best_epoch"]
    ndcg = result["validation"]["ndcg@20"]
    progress = RunProgress(best, best, ndcg, 0, catalog.fingerprint, shape, run.to_flat())
    progress = replace(progress, title_weight=result["title_weight"])
    save_checkpoint(out / "model.safetensors", Checkpoint(params, {}, progress))
    CentralisedMetrics(
        data=data.name,
        config=run.to_flat(),
        centralised=CentralisedResult(**result),
        popularity=popular,
        versions=library_versions(),
    ).write(out / METRICS_FILE)
    for name, test in (("centralised", result["test"]), ("popularity", popular)):
        console.print(f"{name:>12}  test HR@20 {test['hr@20']:.4f}  NDCG@20 {test['ndcg@20']:.4f}")
    console.print(f"written: {out / 'model.safetensors'}, metrics.json")


def _configured(data: Path, texts: list[str] | None, semantic_start: bool | None) -> RunConfig:
    """The configuration. By default, training starts from random embeddings.

    Raises:
        ConfigError: a key is wrong, or option and key contradict each other.
    """
    start = RunConfig().semantic_start if semantic_start else "none"
    base = defaults_for(data, method="fedavg", semantic_start=start)
    run = measured(with_overrides(base, texts))
    if semantic_start is not None and semantic_start == (run.semantic_start == "none"):
        option = "--semantic-start" if semantic_start else "--no-semantic-start"
        raise ConfigError(
            f"{option} and -c semantic-start={run.semantic_start} contradict each other; leave one "
            "out"
        )
    return run
