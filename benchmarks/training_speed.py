"""Speed, memory and quality of centralised SASRec on one thread of this computer.

Times some epochs of training without evaluation, then trains to convergence (early stopping on
validation NDCG@20) and evaluates the best model on the test targets by full ranking, with histories
masked. With ``--refit`` it then trains anew, for as many epochs, on all but the test items, as
published recipes do that have no validation items to leave out.

    python benchmarks/training_speed.py [DATA_FOLDER] [--out FILE.json] [-c KEY=VALUE …]

DATA_FOLDER: prepared data, or anything ``lumos prepare`` reads (default: the bundled sample).
"""

import argparse
import platform
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lumos_core.cli.options import with_overrides
from lumos_core.config import RunConfig
from lumos_core.data import Catalog, LeaveOneOut, Sequences
from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.data.sample import bundled_sample
from lumos_core.learning.baselines import popularity, train_centralised
from lumos_core.learning.evaluation import evaluate
from lumos_core.learning.metrics import means
from lumos_core.learning.model import new_model, set_params
from lumos_core.learning.parameters import Params
from lumos_core.learning.title_nearness import TitleNearness
from lumos_core.learning.title_start import initial_params
from lumos_core.learning.training import Trainer, TrainingSet
from lumos_core.safe_files import write_json


@dataclass(frozen=True)
class Cost:
    """The cost of one epoch of training, without evaluation."""

    seconds: float
    cpu_seconds: float
    examples: int
    loss: float  # mean per example


def load(source: Path, k_core: int) -> tuple[Catalog, Sequences]:
    """Catalog and all users of prepared data, or of a data set to prepare."""
    if (source / "dataset.json").is_file():
        catalog, parts = load_prepared(source)
        return catalog, Sequences.concat(parts)
    with tempfile.TemporaryDirectory() as folder:
        prepare(source, Path(folder) / "data", nodes=1, seed=0, k_core=k_core)
        catalog, (users,) = load_prepared(Path(folder) / "data")
    return catalog, users


def new_trainer(config: RunConfig, histories: Sequences, start: Params) -> Trainer:
    """Trains a model on some histories, from given parameters."""
    model = new_model(config, len(start["items.weight"]) - 1)
    set_params(model, start)
    return Trainer(model, TrainingSet.build(histories, config.max_len), config, (config.seed,))


def time_epochs(config: RunConfig, users: Sequences, start: Params, epochs: int) -> list[Cost]:
    """Costs of ``epochs`` epochs, after one to warm up."""
    trainer = new_trainer(config, LeaveOneOut(users).train(), start)
    trainer.epoch()
    costs = []
    for _ in range(epochs):
        wall, cpu = time.perf_counter(), time.process_time()
        sums = trainer.epoch()
        costs.append(
            Cost(
                seconds=time.perf_counter() - wall,
                cpu_seconds=time.process_time() - cpu,
                examples=sums.examples,
                loss=sums.loss / sums.examples,
            )
        )
    return costs


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def converge(
    config: RunConfig,
    catalog: Catalog,
    users: Sequences,
    start: Params,
    max_epochs: int,
    patience: int,
) -> dict[str, Any]:
    """Train until validation NDCG@20 stops rising; print and return the results."""

    def show(epoch: dict[str, Any]) -> None:
        print(
            f"epoch {epoch['epoch']:>3}  loss {epoch['loss']:.4f}  {epoch['seconds']:.1f} s  "
            f"validation HR@10 {epoch['hr@10']:.4f}  NDCG@20 {epoch['ndcg@20']:.4f}",
            flush=True,
        )

    titles = TitleNearness.of(catalog) if any(config.title_weights) else None
    _, found = train_centralised(
        config, users, start, titles, max_epochs=max_epochs, patience=patience, on_epoch=show
    )
    popular = popularity(users, len(catalog))
    names = ("hr@5", "hr@10", "hr@20", "ndcg@10", "ndcg@20", "mrr")
    print(f"{'test':<13}" + "  ".join(f"{n.upper():>8}" for n in names))
    for label, metrics in (("SASRec", found["test"]), ("popularity", popular)):
        print(f"{label:<13}" + "  ".join(f"{metrics[n]:>8.4f}" for n in names))
    print(f"best epoch {found['best_epoch']} of {found['epochs']}", flush=True)
    return {"centralised": found, "popularity": popular}


def refit(config: RunConfig, users: Sequences, start: Params, epochs: int) -> dict[str, Any]:
    """Train on validation items, too, and evaluate on the test targets."""
    histories, targets = LeaveOneOut(users).test()
    trainer = new_trainer(config, histories, start)
    began = time.process_time()
    for _ in range(epochs):
        trainer.epoch()
    cpu_seconds = time.process_time() - began
    test = means(evaluate(trainer.model, histories, targets)[0.0])
    print(
        f"validation items trained on, too, {epochs} epochs: "
        f"HR@10 {test['hr@10']:.4f}  NDCG@10 {test['ndcg@10']:.4f}",
        flush=True,
    )
    return {"epochs": epochs, "cpu_seconds": cpu_seconds, "test": test}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", default=bundled_sample())
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timed-epochs", type=int, default=3)
    parser.add_argument("--max-epochs", type=int, default=100, help="0: measure speed only")
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--refit", action="store_true", help="then train on validation items, too")
    parser.add_argument("--k-core", type=int, default=5, help="filter of data not yet prepared")
    parser.add_argument("-c", "--config", action="append", metavar="KEY=VALUE")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    config = with_overrides(RunConfig(method="fedavg", semantic_start="none"), options.config)
    catalog, users = load(options.data, options.k_core)
    start = initial_params(config, catalog)
    before = peak_mib()
    costs = time_epochs(config, users, start, options.timed_epochs)
    result: dict[str, Any] = {
        "data": options.data.resolve().name,
        "users": len(users),
        "items": len(catalog),
        "interactions": len(users.items),
        "threads": options.threads,
        "seconds_per_epoch": median(c.seconds for c in costs),
        "cpu_seconds_per_epoch": median(c.cpu_seconds for c in costs),
        "timed_epochs": [asdict(c) for c in costs],
        "peak_mib": {"before_training": before, "training": peak_mib()},
        "config": config.to_flat(),
        "versions": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            **{p: version(p) for p in ("torch", "numpy")},
        },
    }
    print(
        f"{result['data']}: {len(users):,} users, {len(catalog):,} items, "
        f"{costs[0].examples:,} examples an epoch, {options.threads} thread(s)\n"
        f"an epoch: {result['seconds_per_epoch']:.2f} s, "
        f"{result['cpu_seconds_per_epoch']:.2f} CPU-s; "
        f"peak memory {peak_mib():.0f} MiB ({before:.0f} before training)",
        flush=True,
    )
    if options.max_epochs:
        result |= converge(config, catalog, users, start, options.max_epochs, options.patience)
        result["peak_mib"]["with_evaluation"] = peak_mib()
        result["cpu_seconds"] = time.process_time()
        if options.refit:
            best = result["centralised"]["best_epoch"]
            result["refit"] = refit(config, users, start, best)
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
