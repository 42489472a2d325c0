"""What a recommendation over HTTP costs: processor time of ``lumos serve`` a request, requests/s.

It starts the service as a process, on the bundled sample (one node has all users) with a model of
the default configuration and a title weight, so that titles are compared as well. The values of the
model do not matter to its speed, so it is not trained. Clients keep their connections; their own
processor time is not counted, but they share the machine, and requests/s are theirs as well, and
those of whatever else runs there (``load``).

    python benchmarks/serving.py [--requests N] [--clients N] [--items N …] [--out FILE.json]

``--items`` adds catalogs of so many items, with titles and histories made up.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.safe_files import write_json
from lumos_core.terminal.tables import markdown_table

WARM_UP = 50
SESSION = 5
Request = tuple[str, str, bytes | None]
Requests = Callable[[int], Request]


def sample_node(folder: Path) -> None:
    """All users of the bundled sample, as one node."""
    prepare = [sys.executable, "-m", "lumos_core", "prepare", "sample", "--nodes", "1"]
    subprocess.run([*prepare, "--out", str(folder)], check=True, stdout=subprocess.DEVNULL)


def made_up_node(folder: Path, items: int) -> None:
    """1,000 users with histories of 33 items, in a catalog of titles of five words."""
    rng = np.random.default_rng(0)
    words = [f"word{n}" for n in range(3000)]
    titles = tuple(" ".join(words[w] for w in row) for row in rng.integers(0, 3000, (items, 5)))
    node = folder / "node-0"
    node.mkdir(parents=True)
    Catalog(tuple(f"i{n}" for n in range(items)), titles).write(node / "catalog.tsv")
    rows = [
        f"u{u}\ti{item}\t{t}\n"
        for u, row in enumerate(rng.integers(0, items, (1000, 33)))
        for t, item in enumerate(row)
    ]
    (node / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + "".join(rows))


def keep_model(node: Path, catalog: Catalog) -> None:
    """A model as the node would keep it."""
    from lumos_core.learning.model import get_params, new_model
    from lumos_core.recommend.model_files import KEPT_FINAL, ModelCard, save_model

    config = RunConfig()
    card = ModelCard.of(config, len(catalog), catalog.fingerprint, 1, True, 0.5)
    save_model(node / "state" / KEPT_FINAL, get_params(new_model(config, len(catalog))), card)


@contextmanager
def service(node: Path) -> Iterator[tuple[psutil.Process, int]]:
    """A service, and its port."""
    command = [sys.executable, "-m", "lumos_core", "serve", "--data", str(node), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().split()[1].rpartition(":")[2])
            yield psutil.Process(process.pid), port
        finally:
            process.terminate()


def measure(process: psutil.Process, port: int, ask: Requests, total: int, clients: int) -> Any:
    """CPU ms a request, requests/s and the times of answers, with so many clients at a time."""
    seconds: list[float] = []

    def client(first: int, count: int, out: list[float]) -> None:
        to = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for n in range(first, first + count):
            method, path, body = ask(n)
            began = time.perf_counter()
            to.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = to.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(text.decode())
            out.append(time.perf_counter() - began)
        to.close()

    client(0, WARM_UP, [])
    each = total // clients
    threads = [
        threading.Thread(target=client, args=(n * each, each, seconds)) for n in range(clients)
    ]
    before, began = process.cpu_times(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall, after = time.perf_counter() - began, process.cpu_times()
    if len(seconds) != each * clients:
        raise RuntimeError("a client failed")
    cpu = after.user + after.system - before.user - before.system
    return {
        "clients": clients,
        "requests": len(seconds),
        "cpu_ms_a_request": round(cpu / len(seconds) * 1000, 2),
        "requests_a_second": round(len(seconds) / wall, 1),
        "median_ms": round(float(np.median(seconds)) * 1000, 2),
        "p95_ms": round(float(np.quantile(seconds, 0.95)) * 1000, 2),
        "load": round(os.getloadavg()[0], 1),
    }


def requests_of(catalog: Catalog, users: Sequences) -> dict[str, Requests]:
    """By name: the n-th request."""

    def of_user(n: int) -> Request:
        return "GET", f"/recommend?user={users.user_ids[n % len(users)]}&k=10", None

    def of_session(n: int) -> Request:
        items = [catalog.item_id(i) for i in users[n % len(users)][-SESSION:].tolist()]
        return "POST", "/recommend", json.dumps({"items": items, "k": 10}).encode()

    return {"GET, a user's history": of_user, f"POST, {SESSION} items": of_session}


def rows_of(folder: Path, name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The measurements of one node."""
    from lumos_core.data.node_folder import read_node

    node = folder / "node-0"
    catalog, users = read_node(node, min_history=1)
    keep_model(node, catalog)
    rows = []
    with service(node) as (process, port):
        for kind, ask in requests_of(catalog, users).items():
            for clients in (1, options.clients):
                found = measure(process, port, ask, options.requests, clients)
                rows.append({"catalog": name, "items": len(catalog), "request": kind, **found})
                print(rows[-1], flush=True)
        memory = round(process.memory_info().rss / 2**20)
    return [{**row, "memory_mib": memory} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--items", type=int, nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        sample_node(Path(temporary) / "sample")
        rows += rows_of(Path(temporary) / "sample", "bundled sample", options)
        for items in options.items:
            made_up_node(Path(temporary) / str(items), items)
            rows += rows_of(Path(temporary) / str(items), "made up", options)
    table = markdown_table(list(rows[0]), [[str(v) for v in row.values()] for row in rows])
    print(table)
    if options.out:
        write_json(options.out, {"cores": os.cpu_count(), "rows": rows})


if __name__ == "__main__":
    main()
