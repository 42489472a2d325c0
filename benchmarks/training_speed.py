"""Speed of training SASRec: CPU seconds and wall seconds an epoch, users a second, peak memory.

python benchmarks/training_speed.py --data prepared/beauty -c loss=sampled --epochs 3
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

from lumos_core.cli.options import with_overrides
from lumos_core.config import RunConfig
from lumos_core.data import LeaveOneOut, Sequences, bundled_sample, load_prepared, prepare
from lumos_core.initialisation import initial_params
from lumos_core.model import ModelShape, SASRec, set_params
from lumos_core.training import Trainer, TrainingSet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="prepared folder (default: bundled sample)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-c", "--config", action="append", help="KEY=VALUE of the configuration")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = RunConfig(method="fedavg", semantic_start="none")
    config = with_overrides(base, options.config)
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder)
        if options.data is None:
            prepare(bundled_sample(), data, nodes=1)
        catalog, nodes = load_prepared(data)
    users = LeaveOneOut(Sequences.concat(nodes)).train()
    model = SASRec(ModelShape.of(config, len(catalog)), config.dropout)
    set_params(model, initial_params(config, catalog))
    data_set = TrainingSet.build(users, config.max_len)
    trainer = Trainer(model, data_set, config, (config.seed,))
    print(f"{len(users)} users, {len(users.items)} interactions, {len(catalog)} items")
    for epoch in range(1, options.epochs + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        sums = trainer.epoch()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(
            f"epoch {epoch}: {cpu:.2f} CPU s, {wall:.2f} s, {len(users) / wall:.0f} users/s, "
            f"loss {sums.loss / sums.examples:.3f}"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    print(f"peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
