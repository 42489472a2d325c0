"""The cost of a round besides its computation: Flower's default and LUMOS, measured alternately.

Both run on this machine: one SuperLink, two SuperNodes, gRPC, real processes, one million float32
parameters, training and evaluation in every round. *default* is Flower's own FedAvg strategy with
Flower's own settings (``benchmarks/plain_fedavg``); its nodes add noise and do not import torch.
LUMOS is ``lumos run`` without baselines on a few users, so that it computes very little. The
seconds of a round count from the end of the round before it to its own end; the first round, which
waits for the nodes, is left out. From LUMOS's seconds the training itself is subtracted, evaluation
and everything else is not.

    python benchmarks/round_overhead.py [--rounds N] [--repeats N] [--out FILE.json]

If the machine does other work at the same time, only ratios within one run are meaningful.
"""

import argparse
import json
import os
import platform
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from lumos_core.config import RunConfig
from lumos_core.data import Catalog
from lumos_core.deployment.local import LocalNode, deploy
from lumos_core.deployment.superlink import wait_healthy
from lumos_core.flower import commands
from lumos_core.learning.title_start import initial_params
from lumos_core.processes.children import Children, ending_on_signals
from lumos_core.runs.history import Event
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table

RESULTS = Path(__file__).parent / "results" / "round_overhead.json"
NODES = 2
ITEMS = 14_300
LIMIT_SECONDS = 300.0
CONFIG = RunConfig(
    method="fedavg", semantic_start="none", local_epochs=1, layers=1, evaluate_every=1,
    full_softmax_max_items=1, start_timeout=120.0, round_timeout=120.0,
)  # fmt: skip

Rounds = list[dict[str, float]]
"""Of each: seconds; training, seconds and mean of the nodes; and, of LUMOS, the CPU seconds of the
process that a node starts for the message, imports, training and evaluation."""


def write_data(folder: Path) -> list[LocalNode]:
    """Write data of nodes with few users and a catalog of a million parameters."""
    draw = random.Random(0)
    catalog = "item_id\ttitle\n" + "".join(f"i{n}\tthing {n}\n" for n in range(ITEMS))
    nodes = []
    for number in range(NODES):
        own = folder / f"node-{number}"
        own.mkdir(parents=True)
        (own / "catalog.tsv").write_text(catalog)
        rows = (f"u{u}\ti{draw.randrange(ITEMS)}\t{t}\n" for u in range(8) for t in range(6))
        (own / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + "".join(rows))
        nodes.append(LocalNode(f"node-{number}", own, {"log-format": "json"}))
    return nodes


def lumos(rounds: int, parameters: int, place: Path) -> Rounds:
    """Run ``lumos run``; returns its rounds."""
    nodes = write_data(place / "data")
    config = CONFIG.replace(rounds=rounds, catalog=str(nodes[0].data / "catalog.tsv"))
    events: list[Event] = []
    summary = deploy(config, nodes, place / "run", events.append)
    if summary.outcome != "completed":
        raise SystemExit(f"the run ended as {summary.outcome}")
    of_rounds = [e for e in events if e["event"] == "round"]
    ends = [datetime.fromisoformat(e["time"]).timestamp() for e in of_rounds]
    cpu = _cpu_seconds(place / "run" / "logs")
    return [
        {
            "seconds": b - a,
            "training": e["train_seconds"] / NODES,
            "message_cpu_seconds": cpu[e["round"]],
        }
        for (a, b), e in zip(pairwise(ends), of_rounds[1:], strict=True)
    ]


def _cpu_seconds(logs: Path) -> dict[int, float]:
    """By round, the nodes' mean."""
    found: dict[int, list[float]] = {}
    for path in logs.glob("node-?.log"):
        for line in _lines(path):
            if line.startswith("{") and (said := json.loads(line)).get("kind") == "train":
                found.setdefault(said["round"], []).append(said["cpu_seconds"])
    return {round_: mean(seconds) for round_, seconds in found.items()}


def default(rounds: int, parameters: int, place: Path) -> Rounds:
    """Run Flower's FedAvg with Flower's own polling; returns its rounds."""
    app, times = place / "plain-fedavg", place / "times"
    shutil.copytree(Path(__file__).parent / "plain_fedavg", app)
    empty = place / "empty"
    empty.mkdir()
    settings = commands.write_toml(
        place / "run.toml",
        {"parameters": parameters, "nodes": NODES, "rounds": rounds, "times": str(times)},
    )
    control, fleet_port, *runtime = commands.free_ports(2 + NODES)
    home = place / "superlink"
    commands.write_connection(home, control)
    with ending_on_signals(), Children(place / "logs") as children:

        def start(name: str, home: Path, command: list[str]) -> Any:
            return children.start(name, command, environment=_stock(home), cwd=empty)

        fleet = f"{commands.LOOPBACK}:{fleet_port}"
        link = start("superlink", home, commands.superlink(control, fleet))
        for number, port in enumerate(runtime):
            name = f"node-{number}"
            config = commands.write_toml(place / name / "node.toml", {"partition-id": number})
            start(name, place / name, _supernode(fleet, port, config))
        wait_healthy(link, control)
        run = start("server", home, commands.submit(app, settings, None))
        until = time.monotonic() + LIMIT_SECONDS
        while len(lines := _lines(times)) < rounds + 1:
            if time.monotonic() > until:
                raise SystemExit(f"no end in sight; the server's log:\n{run.last_lines()}")
            time.sleep(0.2)
    ends = [float(line.split()[1]) for line in lines[1:]]
    return [{"seconds": b - a, "training": 0.0} for a, b in pairwise(ends)]


def _supernode(fleet: str, port: int, config: Path) -> list[str]:
    """The command of Flower's own SuperNode, which runs whatever app it is sent."""
    return [
        commands.executable("flower-supernode"), "--insecure", "--superlink", fleet,
        "--host", commands.LOOPBACK, "--port", str(port), "--node-config", str(config),
    ]  # fmt: skip


def _stock(home: Path) -> dict[str, str]:
    """The environment without LUMOS's settings for speed; offline, as it is for both."""
    own = commands.environment(home, OMP_NUM_THREADS="1")
    del own["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"]
    return own


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


Variant = tuple[Callable[[int, int, Path], Rounds], Mapping[str, str]]
VARIANTS: dict[str, Variant] = {  # what to run, with which environment variables
    "default": (default, {}),
    "lumos": (lumos, {}),
    "lumos, LUMOS_POLL_SECONDS=0.2": (lumos, {"LUMOS_POLL_SECONDS": "0.2"}),
    "lumos, LUMOS_POLL_SECONDS=3": (lumos, {"LUMOS_POLL_SECONDS": "3"}),
    "lumos, LUMOS_POLL_SECONDS=3 LUMOS_PRELOAD=0": (
        lumos, {"LUMOS_POLL_SECONDS": "3", "LUMOS_PRELOAD": "0"},
    ),
}  # fmt: skip


def measure(variant: str, rounds: int, parameters: int) -> dict[str, Any]:
    """One run of one variant."""
    run, switches = VARIANTS[variant]
    os.environ.update(switches)
    load = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory(prefix="lumos-bench-") as place:
            found = run(rounds, parameters, Path(place))
    finally:
        for key in switches:
            del os.environ[key]
    load = (load + os.getloadavg()[0]) / 2
    print(variant, [round(r["seconds"], 2) for r in found], f"load {load:.1f}", flush=True)
    return {"variant": variant, "load": load, "rounds": found}


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over all rounds of a variant, and their ratio to those of the default."""
    rows = []
    for name in dict.fromkeys(run["variant"] for run in runs):
        of_it = [r for run in runs if run["variant"] == name for r in run["rounds"]]
        rows.append(
            {
                "variant": name,
                "rounds": len(of_it),
                "seconds": median(r["seconds"] for r in of_it),
                "overhead": median(r["seconds"] - r["training"] for r in of_it),
                "message_cpu_seconds": median(r.get("message_cpu_seconds", 0.0) for r in of_it),
                "load": median(run["load"] for run in runs if run["variant"] == name),
            }
        )
    base = next(r["overhead"] for r in rows if r["variant"] == "default")
    return [{**row, "of_default": row["overhead"] / base} for row in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    header = (
        "", "rounds measured", "seconds a round", "of these not training", "part of the default",
        "CPU seconds of a node's process", "load of the machine",
    )  # fmt: skip
    cells = [
        [
            r["variant"],
            str(r["rounds"]),
            f"{r['seconds']:.1f}",
            f"{r['overhead']:.1f}",
            f"{r['of_default']:.2f}",
            _or_dash(r["message_cpu_seconds"]),
            f"{r['load']:.1f}",
        ]
        for r in rows
    ]
    return markdown_table(header, cells, align="l")


def _or_dash(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds else "–"


def _parameters() -> int:
    ids = tuple(str(n) for n in range(ITEMS))
    catalog = Catalog(ids, ids)
    return sum(p.size for p in initial_params(CONFIG, catalog).values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each run; the first is dropped")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; a table goes beside it")
    options = parser.parse_args()
    parameters = _parameters()
    runs: list[dict[str, Any]] = []
    for _ in range(options.repeats):
        for variant in options.variants:
            runs.append(measure(variant, options.rounds, parameters))
            write(options.out, parameters, runs)
    print(table(summarise(runs)))


def write(path: Path, parameters: int, runs: list[dict[str, Any]]) -> None:
    """Write the results so far."""
    rows = summarise(runs)
    machine = {
        "cores": os.cpu_count(), "python": platform.python_version(),
        "machine": platform.machine(), **{p: version(p) for p in ("flwr", "torch")},
    }  # fmt: skip
    found = {"parameters": parameters, "nodes": NODES, "summary": rows, "runs": runs}
    write_json(path, {**found, "machine": machine})
    write_atomically(path.with_suffix(".md"), table(rows).encode())


if __name__ == "__main__":
    main()
