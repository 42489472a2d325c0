"""What a node costs the server that sends far too much: peak memory, and the next good round.

Runs the real deployment once without a hostile node and once for each kind of reply, on this
machine: `lumos deploy server` with TLS, node keys and its database on disk, and three times
`lumos node start`. The third node answers the first instruction to train with the reply of that
kind, and is honest again afterwards. Then whole federations in this process, of two and of eight
nodes, say how many bytes `history.jsonl` grows by in a round.

    python benchmarks/oversized_replies.py [--kinds KIND …] [--out FILE.json]

Memory and who refuses a reply are the point; seconds depend on what else the machine does. Kinds
that are not measured again stay as they are in FILE.json.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lumos_core.config import RunConfig
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.deployment import folders
from lumos_core.federation.simulate import simulate
from lumos_core.flower import commands
from lumos_core.processes.children import Child, Children, ending_on_signals
from lumos_core.runs.history import HISTORY, Event, read_history
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table

HERE = Path(__file__).resolve()
RESULTS = HERE.parent / "results" / "oversized_replies.json"
NODES = ["node-0", "node-1", "node-2"]
HONEST = NODES[:2]
SETTINGS = {
    "method": "fedavg", "semantic-start": "none", "dim": 8, "heads": 1, "layers": 1,
    "local-epochs": 1, "rounds": 2, "min-nodes": 3, "min-replies": 2, "start-timeout": 180,
    "round-timeout": 900,
}  # fmt: skip
KINDS = {
    "arrays": (20_000, "20,000 arrays of one number"),
    "metrics": (300_000, "300,000 metrics"),
    "zeros": (500_000_000, "500 MB of zeros, sent as one chunk"),
    "shape": (10**9, "a shape of 10⁹ numbers with three bytes"),
    "list": (3_000_000, "a record with a list of 3,000,000 numbers"),
    "entries": (3_000_000, "a record of 3,000,000 fields"),
}
HISTORY_NODES, HISTORY_ROUNDS = (2, 8), 20

sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))


def deploy(kind: str, count: int, place: Path) -> dict[str, Any]:
    """One federation, whose third node sends too much of this kind in round 1."""
    from deployment_support import write_prepared
    from oversized_node import oversized_app, peaks_of

    data = write_prepared(place / "data", nodes=len(NODES))
    # short names of fields: with long ones the hostile node itself needs minutes for 3,000,000
    app = oversized_app(place / "app", kind, count, digits=7)
    kit, [port] = place / "deployment", commands.free_ports(1)
    folders.create(kit, ["127.0.0.1"], NODES, port, days=1)
    run_dir = place / "run"
    with ending_on_signals(), Children(place / "logs", grace=20.0) as children:
        options = [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]
        server = _lumos(
            children, "server", app, "deploy", "server", str(kit / "server"), "--bind", "127.0.0.1",
            "--catalog", str(data / "catalog.tsv"), "--run-dir", str(run_dir), *options,
        )  # fmt: skip
        for name in NODES:
            bundle = kit / "nodes" / name
            _lumos(children, name, app, "node", "start", str(bundle), "--data", str(data / name))
        peaks = peaks_of(server.process.pid, lambda: server.exit_code is not None)
    if server.exit_code:
        raise SystemExit(
            f"{kind}: the server ended with {server.exit_code}:\n{server.last_lines()}"
        )
    rounds = [e for e in read_history(run_dir / HISTORY) if e["event"] == "round"]
    return {"kind": kind, "count": count, "peak_bytes": peaks, **outcome(rounds)}


def _lumos(children: Children, name: str, app: Path, *arguments: str) -> Child:
    """Start a command of LUMOS that finds the packages of an app before the installed ones."""
    code = (
        f"import sys; sys.path.insert(0, {str(app)!r})\nfrom lumos_core.cli.app import main\nmain()"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return children.start(name, command, environment=environment, cwd=app)


def outcome(rounds: Sequence[Event]) -> dict[str, Any]:
    """Who trained in the two rounds, why the third node's reply was refused, and how long it took.

    Returns:
        ``ok``: of each round, the nodes that trained; ``refused``: what the history says of the
        others in round 1; ``left_out``: nodes left out of round 2; ``seconds``: from the beginning
        of round 1 to the end of round 2.
    """
    first, second = rounds
    ends = [datetime.fromisoformat(event["time"]) for event in rounds]
    return {
        "ok": [event["ok"] for event in rounds],
        "refused": first["failed"],
        "left_out": second.get("left_out", []),
        "next_round_good": set(HONEST) <= set(second["ok"]),
        "seconds": round((ends[1] - ends[0]).total_seconds() + first["seconds"], 1),
    }


def history_bytes(nodes: int, place: Path) -> dict[str, Any]:
    """Bytes that ``history.jsonl`` grows by in a round, its evaluation included."""
    from deployment_support import write_prepared

    catalog, users = load_prepared(write_prepared(place / "data", nodes=nodes))
    config = RunConfig.from_flat({**SETTINGS, "rounds": HISTORY_ROUNDS, "min-nodes": nodes})
    simulate(config, catalog, users, run_dir=place / "run", state=place / "state")
    size = 0
    for line in (place / "run" / HISTORY).read_bytes().splitlines(keepends=True):
        event = json.loads(line)
        if event["round"] and event.get("split") != "test":
            size += len(line)
    return {"nodes": nodes, "rounds": HISTORY_ROUNDS, "bytes_a_round": size / HISTORY_ROUNDS}


# ---------------------------------------------------------------- showing
HEADER = ("reply", "refused as", "SuperLink", "ServerApp", "more than without", "next good round")


def cells(row: Mapping[str, Any], normal: Mapping[str, int]) -> list[str]:
    """The cells of one run; ``normal`` are the peaks without a hostile node."""
    peaks: dict[str, int] = row["peak_bytes"]
    more = sum(peaks.values()) - sum(normal.values())
    hostile = row["kind"] != "none"
    reasons = [f"{failed['node']}: {failed['reason']}" for failed in row["refused"]]
    return [
        KINDS[row["kind"]][1] if hostile else "none: three honest nodes",
        "; ".join(reasons) or "–",
        *(f"{peak / 2**20:.0f} MiB" for peak in peaks.values()),
        f"{more / 2**20:+.0f} MiB" if hostile else "–",
        f"{row['seconds']:.0f} s" if row["next_round_good"] else "no",
    ]


def show(rows: Sequence[Mapping[str, Any]], histories: Sequence[Mapping[str, Any]]) -> str:
    """Print the tables; returns them in Markdown."""
    normal = rows[0]["peak_bytes"]
    lines = [cells(row, normal) for row in rows]
    sizes = [[str(h["nodes"]), f"{h['bytes_a_round']:.0f}"] for h in histories]
    of_history = ("nodes", "bytes of history.jsonl a round")
    console = Console(width=160)
    for header, content in ((HEADER, lines), (of_history, sizes)):
        table = Table(*header)
        for line in content:
            table.add_row(*line)
        console.print(table)
    return f"{markdown_table(HEADER, lines)}\n{markdown_table(of_history, sizes)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; a table goes beside it")
    options = parser.parse_args()
    found = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    measured = {row["kind"]: row for row in found}
    for kind in ("none", *options.kinds):
        count = KINDS[kind][0] if kind in KINDS else 0
        with tempfile.TemporaryDirectory(prefix="lumos-bench-") as place:
            measured[kind] = deploy(kind, count, Path(place))
        print(json.dumps(measured[kind]), flush=True)
    rows = [measured[kind] for kind in ("none", *KINDS) if kind in measured]
    histories = []
    for nodes in HISTORY_NODES:
        with tempfile.TemporaryDirectory(prefix="lumos-bench-") as place:
            histories.append(history_bytes(nodes, Path(place)))
    table = show(rows, histories)
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    versions = {**machine, **{p: version(p) for p in ("lumos", "flwr", "grpcio", "torch")}}
    result = {"config": SETTINGS, "rows": rows, "history": histories, "versions": versions}
    write_json(options.out, result)
    write_atomically(options.out.with_suffix(".md"), table.encode())


if __name__ == "__main__":
    main()
