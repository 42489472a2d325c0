"""The cost of secure aggregation: seconds and bytes of a round, compared with a plain round.

Runs whole rounds of the real protocol, with Flower's cryptography, in one process: a server, and
nodes that send random deltas instead of training. A node's seconds are those of one node in all
four steps; the server's seconds do not include the nodes'.

    python benchmarks/secure_aggregation.py [--parameters N …] [--nodes N …] [--out FILE.json]
"""

import argparse
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.flower.cryptography import FLOWER
from lumos_core.learning.parameters import Params
from lumos_core.privacy.secure_aggregation import packets
from lumos_core.privacy.secure_aggregation.coordinator import SecureExchange
from lumos_core.privacy.secure_aggregation.encoding import Encoding
from lumos_core.privacy.secure_aggregation.participant import Participant
from lumos_core.privacy.secure_aggregation.session_store import MemoryStore
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table
from lumos_core.wire.messages import Instruction, Metrics, Reply
from lumos_core.wire.reply_checks import TRAIN_METRICS

RESULTS = Path(__file__).parent / "results" / "secure_aggregation.json"
METRICS: Metrics = {**dict.fromkeys(TRAIN_METRICS, 0), "users": 90}


class TimedNodes:
    """A transport to nodes that have trained already; it measures how long each of them takes."""

    def __init__(self, config: RunConfig, deltas: dict[str, Params], dead: Sequence[str]) -> None:
        self._deltas, self._dead = deltas, set(dead)
        self._parts = {n: Participant(n, "0", config, FLOWER, MemoryStore()) for n in deltas}
        self.seconds = dict.fromkeys(deltas, 0.0)

    def nodes(self) -> list[str]:
        return sorted(self._deltas)

    def exchange(self, instructions: Sequence[Instruction], deadline: float) -> list[Reply]:
        return [self._answer(i) for i in instructions if not self._silent(i)]

    def _silent(self, i: Instruction) -> bool:
        """Nodes that fail do so after they have shared their keys, which costs the server most."""
        return i.node in self._dead and i.kind == "train"

    def _answer(self, i: Instruction) -> Reply:
        packet = i.secure or {}
        down = packets.size_of(packet)
        started = time.perf_counter()
        try:
            if i.kind != "train" or i.params is None:
                answer = self._parts[i.node].answer(i.round, packet)
                up = packets.size_of(answer)
                return Reply(i.node, "secagg", secure=answer, bytes_up=up, bytes_down=down)
            delta = self._deltas[i.node]
            vector = self._parts[i.node].upload(
                i.round, packet, i.params, False, lambda: (delta, METRICS)
            )
        finally:
            self.seconds[i.node] += time.perf_counter() - started
        arrays = {packets.MASKED: vector}
        return Reply(i.node, "train", arrays, bytes_up=vector.nbytes, bytes_down=down)


def measure(parameters: int, nodes: int, dropped: int, repeats: int) -> dict[str, Any]:
    """Medians over ``repeats`` rounds."""
    config = RunConfig(
        method="fedavg", secure_aggregation=True, min_nodes=3, min_replies=3, delta_codec="float32"
    )
    rng = np.random.default_rng(0)
    like = {"weight": np.zeros(parameters, dtype=np.float32)}
    names = [f"node-{n}" for n in range(nodes)]
    deltas = {n: {"weight": rng.normal(0, 0.01, parameters).astype(np.float32)} for n in names}
    rows = []
    for round_ in range(repeats):
        transport = TimedNodes(config, deltas, names[:dropped])
        instructions = [Instruction(n, "train", round_ + 1, like) for n in names]
        started = time.perf_counter()
        outcome = SecureExchange(config, transport, FLOWER).exchange(instructions, 600.0)
        total = time.perf_counter() - started
        (reply,) = outcome.replies
        exact = np.mean([deltas[n]["weight"] for n in names[dropped:]], axis=0, dtype=np.float64)
        rows.append(
            {
                "node_seconds": median(transport.seconds[n] for n in names[dropped:]),
                "server_seconds": total - sum(transport.seconds.values()),
                "bytes_up": reply.bytes_up / nodes,
                "bytes_down": reply.bytes_down / nodes,
                "largest_error": float(np.abs((reply.arrays or {})["weight"] - exact).max()),
            }
        )
    return {
        "parameters": parameters,
        "nodes": nodes,
        "dropped": dropped,
        **{k: median(r[k] for r in rows) for k in rows[0]},
        "plain_bytes_up": 4 * parameters,
        "step": Encoding.of(config, like, False).step,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown."""
    header = (
        "parameters", "nodes", "die after sharing", "s per node", "s of the server",
        "bytes up per node", "plain", "more", "bytes down beside the model",
        "largest error of the mean",
    )  # fmt: skip
    cells = []
    for r in rows:
        more = r["bytes_up"] / (r["plain_bytes_up"] * (r["nodes"] - r["dropped"]) / r["nodes"]) - 1
        cells.append(
            [
                f"{r['parameters']:,}",
                str(r["nodes"]),
                str(r["dropped"]),
                f"{r['node_seconds']:.3f}",
                f"{r['server_seconds']:.3f}",
                f"{r['bytes_up']:,.0f}",
                f"{r['plain_bytes_up']:,}",
                f"{more:.2%}",
                f"{r['bytes_down']:,.0f}",
                f"{r['largest_error']:.1e}",
            ]
        )
    return markdown_table(header, cells, align="l")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parameters", type=int, nargs="+", default=[156_000, 1_000_000])
    parser.add_argument("--nodes", type=int, nargs="+", default=[8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; a table goes beside it")
    options = parser.parse_args()
    rows = [
        measure(parameters, nodes, dropped, options.repeats)
        for parameters in options.parameters
        for nodes in options.nodes
        for dropped in (0, nodes // 4)
    ]
    versions = {p: version(p) for p in ("flwr", "cryptography", "pycryptodome", "numpy")}
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    write_json(options.out, {"rows": rows, "versions": {**machine, **versions}})
    write_atomically(options.out.with_suffix(".md"), table(rows).encode())
    print(table(rows))


if __name__ == "__main__":
    main()
