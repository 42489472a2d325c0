"""FedAvg by Flower's own strategy; notes when each round has ended."""

import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    times = Path(str(config["times"]))

    def note(round_: int, arrays: ArrayRecord) -> MetricRecord:
        """Called after every round (0: before the first)."""
        with times.open("a", encoding="utf-8") as file:
            file.write(f"{round_} {time.time()}\n")
        return MetricRecord({})

    strategy = FedAvg(min_available_nodes=int(config["nodes"]))
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(int(config["parameters"]), dtype=np.float32)]),
        num_rounds=int(config["rounds"]),
        evaluate_fn=note,
    )
