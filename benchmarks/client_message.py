"""What a message costs a node: CPU seconds of a fresh process that answers one, imports included.

Of one or several checkouts of LUMOS, in turns, in one run: only their ratio means anything. Each
process imports the ClientApp that ``pyproject.toml`` of its checkout names, opens a node of a few
users, and answers a "describe" or a "train" message as Flower would hand it over.

    python benchmarks/client_message.py [CHECKOUT …] [--repeats N] [--out FILE.json]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from lumos_core.safe_files import write_json
from lumos_core.terminal.tables import markdown_table

HERE = Path(__file__).resolve().parents[1]
KINDS = ("describe", "train")
PROGRAM = r"""
import importlib, json, sys, time, tomllib
from pathlib import Path

root, data, kind = sys.argv[1:]
sys.path[:0] = [root, root + "/tests/support", root + "/tests/unit"]
from flwr.app import Message

names = tomllib.loads(Path(root, "pyproject.toml").read_text())["tool"]["flwr"]["app"]
module, _, name = names["components"]["clientapp"].partition(":")
app = getattr(importlib.import_module(module), name)
try:
    records = importlib.import_module("lumos_core.flower.records")
except ModuleNotFoundError:  # checkouts of before it had that name
    records = importlib.import_module("client_app.messages")
from flower_in_process import identify, node_context, set_message_id, tiny_config

identify()
config = tiny_config(Path(data))
params = None
if kind == "train":
    import numpy as np
    saved = np.load(data + "/params.npz")
    params = {key: saved[key] for key in saved.files}
order = records.Order(params, 1, "validation" if params else None, "")
message = Message(
    records.encode_order(order), 100, getattr(records, kind.upper()), ttl=60.0
)
reply = app(set_message_id(message, "m1"), node_context(config, 0))
assert records.decode_error(reply.content) is None, reply.content
print(json.dumps(time.process_time()))
"""


def prepare(data: Path) -> None:
    """Two nodes, and a model for them."""
    sys.path.insert(0, str(HERE / "tests" / "support"))
    import numpy as np
    from flower_in_process import tiny_config, write_nodes

    from lumos_core.learning.model import get_params, new_model

    write_nodes(data)
    np.savez(data / "params.npz", **get_params(new_model(tiny_config(data), 30)))


def measure(root: Path, data: Path, kind: str) -> float:
    """CPU seconds of one process."""
    command = [sys.executable, "-c", PROGRAM, str(root), str(data), kind]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        command, env=environment, cwd=data, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{root}: {done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkouts", nargs="*", type=Path, default=[HERE])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    roots = [root.resolve() for root in arguments.checkouts]
    found: dict[str, dict[str, list[float]]] = {str(r): {k: [] for k in KINDS} for r in roots}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare(data)
        for root in roots:  # byte code, and what a node keeps of its data
            for kind in KINDS:
                measure(root, data, kind)
        for _ in range(arguments.repeats):
            for root in roots:
                for kind in KINDS:
                    found[str(root)][kind].append(measure(root, data, kind))
    first = found[str(roots[0])]
    rows = [
        [root, kind, f"{median(seconds[kind]):.3f}", f"{min(seconds[kind]):.3f}",
         f"{median(seconds[kind]) / median(first[kind]):.2f}"]
        for root, seconds in found.items()
        for kind in KINDS
    ]  # fmt: skip
    header = ["checkout", "message", "CPU seconds, median", "least", "of the first"]
    print(markdown_table(header, rows, "llrrr"))
    if arguments.out:
        write_json(arguments.out, {"repeats": arguments.repeats, "cpu_seconds": found})


if __name__ == "__main__":
    main()
