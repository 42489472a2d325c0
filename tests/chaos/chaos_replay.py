"""Whether a run's model is the one that its rounds lead to: the same rounds with the same nodes, in
this process, without any fault. A node that was left out of a round, because its reply was wrong,
came too late or never, takes no part in it here either."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lumos_core.config import RunConfig
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.round_loop import run_federation
from lumos_core.learning.title_start import initial_params
from lumos_core.runs.checkpoint import LATEST, load_checkpoint
from lumos_core.runs.history import read_history
from lumos_core.wire.messages import Instruction, Reply


class Attendance(InProcessTransport):
    """Nodes that answer only in the rounds in which they did.

    Args:
        nodes: all nodes.
        present: by round, the names of the nodes whose replies were used.
    """

    def __init__(self, nodes: Sequence[Node], present: dict[int, set[str]]) -> None:
        super().__init__(nodes)
        self._present = present

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        there = [i for i in instructions
                 if i.kind != "train" or i.node in self._present[i.round]]  # fmt: skip
        return super().exchange(there, deadline)


def compare(run_dir: Path, data: Path, folder: Path) -> dict[str, object]:
    """Compare the last model of a run with that of the same rounds in this process.

    Args:
        run_dir: the run's folder.
        data: the prepared folder that its nodes' data came from.
        folder: an empty folder.
    """
    rounds = [e for e in read_history(run_dir / "history.jsonl") if e["event"] == "round"]
    saved = json.loads((run_dir / "config.json").read_text())["run"]
    config = RunConfig.from_flat(
        {**saved, "run-dir": "", "rounds": len(rounds), "round-timeout": 1.0, "min-nodes": 1}
    )
    catalog, parts = load_prepared(data)
    nodes = [Node(f"node-{n}", catalog, part, config) for n, part in enumerate(parts)]
    present = {e["round"]: set(e["ok"]) for e in rounds}
    torch.set_num_threads(1)  # as nodes do here
    start = initial_params(config, catalog)
    transport = Attendance(nodes, present)
    run_federation(config, transport, catalog.fingerprint, start, run_dir=folder)
    found, expected = (load_checkpoint(p / LATEST) for p in (run_dir, folder))
    pairs = [(found.params[name], expected.params[name]) for name in expected.params]
    return {
        "rounds": len(rounds),
        "consecutive": [e["round"] for e in rounds] == list(range(1, len(rounds) + 1)),
        "finite": all(bool(np.isfinite(a).all()) for a, _ in pairs),
        "equal": all(a.tobytes() == b.tobytes() for a, b in pairs),
        "largest difference": max(float(np.abs(a - b).max()) for a, b in pairs),
    }
