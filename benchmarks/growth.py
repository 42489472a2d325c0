"""How a round with one user a client grows: with the users, and with the items of the catalog.

    python benchmarks/growth.py [DATA] [--users 1000,…] [--items 1000,…] [--out FOLDER/growth]

Users and items are made up, by the statistics of DATA (prepared data, or anything ``lumos prepare``
reads; default: the bundled sample): histories have its lengths, and items occur as often as the
item of the same relative rank does in it. The same seed always makes the same users. Item
embeddings start as random vectors, and titles do not count (``-c title-weight=-1`` adds their
nearness to rankings).

*Users*: a catalog as large as that of DATA, and 1 % of the users train in a round. *Items*: as many
users as DATA has, at most ``--clients``, of whom 10 % train. Every user evaluates in every round.
The method is ``fedavg-plus`` in the paper's setting: five local epochs and the plain mean.

Every size runs in a process of its own. *seconds a round* is the median time from the end of a
round to the end of the next one: evaluation of all users, training, aggregation, the server's step.
*CPU-seconds* are those of the process in that time, which depend less on what else the machine
does. *peak* is the largest resident memory of the whole process, its libraries included. *growth*
is the exponent of the CPU-seconds over the size, from the size before: 1 is linear.

Writes OUT.json, OUT.md and OUT.png. An empty ``--users`` or ``--items`` measures the other alone,
and keeps what OUT.json has of the same data, settings and versions.
"""

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from one_user_clients import load

from lumos_core.cli.options import with_overrides
from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.data.sample import bundled_sample
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table

USERS = "1000,3000,10000,30000,100000"
ITEMS = "1000,10000,100000,1000000"
SEED = 0
BY_USERS, BY_ITEMS = "users", "items"
FRACTIONS = {BY_USERS: 0.01, BY_ITEMS: 0.1}
PAPER = RunConfig(
    method="fedavg-plus", semantic_start="none", title_weight=0.0, local_epochs=5,
    weighting="uniform", aggregation="mean", clip="none",
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """One measurement: what grows, and how large it is."""

    grows: str
    users: int
    items: int
    rounds: int
    threads: int
    settings: list[str]


# ---------------------------------------------------------------- made-up data
def statistics_of(users: Sequences, items: int) -> dict[str, np.ndarray]:
    """The lengths of histories, and how often items occur, the most frequent first."""
    counts = np.bincount(users.items, minlength=items + 1)[1:]
    return {"lengths": users.lengths, "counts": np.sort(counts)[::-1].astype(np.float64)}


def made_up(statistics: dict[str, np.ndarray], users: int, items: int) -> Sequences:
    """Users whose histories have the lengths and the popularities of the statistics."""
    rng = np.random.default_rng([SEED, users, items])
    lengths = rng.choice(statistics["lengths"], users)
    counts = statistics["counts"]
    at = (np.arange(items) + 0.5) / items  # relative ranks
    popularity = np.interp(at, (np.arange(len(counts)) + 0.5) / len(counts), counts)
    cumulative = np.cumsum(popularity)
    drawn = np.searchsorted(cumulative, rng.random(lengths.sum()) * cumulative[-1])
    numbers = rng.permutation(items)[np.minimum(drawn, items - 1)] + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    names = tuple(map(str, range(users)))
    return Sequences(names, numbers.astype(np.int32), offsets)


# ---------------------------------------------------------------- one size, in its own process
def measured(size: Size, statistics: dict[str, np.ndarray]) -> dict[str, Any]:
    """The rounds of one size."""
    import torch

    from lumos_core.federation.simulate import simulate

    torch.set_num_threads(size.threads)
    numbers = range(size.items)
    catalog = Catalog(tuple(f"i{n}" for n in numbers), tuple(f"item {n}" for n in numbers))
    users = made_up(statistics, size.users, size.items)
    base = PAPER.replace(rounds=size.rounds, fraction=FRACTIONS[size.grows], min_replies=1)
    config = with_overrides(base, size.settings)
    ends: list[float] = []
    cpu: list[float] = []
    trained: list[int] = []

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "round":
            ends.append(time.perf_counter())
            cpu.append(time.process_time())
            trained.append(event["nodes_ok"])

    started = time.perf_counter()
    result = simulate(config, catalog, [users], clients="users", on_event=note)
    if result.outcome != "completed":
        raise SystemExit(f"the run failed: {result.reason}")
    return {
        "users": size.users,
        "items": size.items,
        "trained": trained[-1],
        "first_round_seconds": ends[0] - started,  # with all that is done once
        "round_seconds": [after - before for before, after in pairwise(ends)],
        "round_cpu_seconds": [after - before for before, after in pairwise(cpu)],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def in_own_process(size: Size, statistics: Path) -> dict[str, Any]:
    """:func:`measured`, so that the peak is that of this size alone."""
    command = [sys.executable, __file__, "--one", json.dumps(asdict(size)), str(statistics)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{size.users} users, {size.items} items: ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# ---------------------------------------------------------------- results
def growth(rows: Sequence[dict[str, Any]], by: str) -> list[float]:
    """The exponent of the CPU-seconds over the size, from each row to the next."""
    return [
        math.log(cpu_seconds(after) / cpu_seconds(before)) / math.log(after[by] / before[by])
        for before, after in pairwise(rows)
    ]


def measured_before(file: Path, like: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What a file has measured of the same data with the same settings and versions; else nothing.

    Args:
        file: of an earlier call; may be missing.
        like: all that has to be the same.
    """
    found = json.loads(file.read_text()) if file.exists() else {}
    if any(found.get(key) != value for key, value in like.items()):
        return {}
    return {by: found.get(by, []) for by in (BY_USERS, BY_ITEMS)}


def seconds(row: dict[str, Any]) -> float:
    return median(row["round_seconds"])


def cpu_seconds(row: dict[str, Any]) -> float:
    return median(row["round_cpu_seconds"])


def table(rows: Sequence[dict[str, Any]], by: str) -> str:
    header = [
        "users", "items", "clients that train", "seconds a round", "CPU-seconds", "growth",
        "peak, MiB",
    ]  # fmt: skip
    exponents = ["", *(f"{exponent:.2f}" for exponent in growth(rows, by))]
    return markdown_table(
        header,
        [
            [
                *(f"{row[key]:,}" for key in ("users", "items", "trained")),
                f"{seconds(row):.2f}",
                f"{cpu_seconds(row):.2f}",
                exponent,
                f"{row['peak_mib']:,.0f}",
            ]
            for row, exponent in zip(rows, exponents, strict=True)
        ],
        align="r",
    )


def plot(result: dict[str, Any], path: Path) -> None:
    """CPU-seconds and memory over the size; dashed: linear growth from the largest size down."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = [by for by in (BY_USERS, BY_ITEMS) if result[by]]
    figure, axes = plt.subplots(
        2, len(shown), figsize=(5.5 * len(shown), 7), layout="constrained", squeeze=False
    )
    for column, by in enumerate(shown):
        rows = result[by]
        sizes = np.array([row[by] for row in rows], dtype=np.float64)
        measures = {
            "CPU-seconds a round": [cpu_seconds(row) for row in rows],
            "peak memory, GiB": [row["peak_mib"] / 2**10 for row in rows],
        }
        for axis, (label, values) in zip(axes[:, column], measures.items(), strict=True):
            axis.plot(sizes, values, marker="o", color=f"C{column}")
            linear = values[-1] * sizes / sizes[-1]
            axis.plot(sizes, linear, color="black", linestyle="--", linewidth=1, label="linear")
            axis.set(xscale="log", yscale="log", xlabel=by, ylabel=label)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def sizes_of(options: argparse.Namespace, users: int, items: int) -> dict[str, list[Size]]:
    """What is measured: each size of users with the data's catalog, and of items with its users."""
    more = (options.rounds, options.threads, options.settings or [])

    def numbers(text: str) -> list[int]:
        return sorted(int(number) for number in text.split(",") if number)

    clients = min(users, options.clients)
    return {
        BY_USERS: [Size(BY_USERS, count, items, *more) for count in numbers(options.users)],
        BY_ITEMS: [Size(BY_ITEMS, clients, count, *more) for count in numbers(options.items)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", default=bundled_sample())
    parser.add_argument("--users", default=USERS, help="sizes; empty: none")
    parser.add_argument("--items", default=ITEMS, help="sizes; empty: none")
    parser.add_argument("--clients", type=int, default=5000, help="users of the growing catalog")
    parser.add_argument("--rounds", type=int, default=3, help="at least 2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/growth"))
    parser.add_argument("-c", dest="settings", action="append", metavar="KEY=VALUE")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        size, statistics = options.one
        with np.load(statistics) as stored:
            print(json.dumps(measured(Size(**json.loads(size)), dict(stored))))
        return
    if options.rounds < 2:
        parser.error("--rounds: the first round holds all that is done once; give at least 2")

    catalog, users = load(options.data, 0)
    statistics = statistics_of(users, len(catalog))
    result: dict[str, Any] = {
        "data": options.data.resolve().name,
        "settings": options.settings or [],
        "threads": options.threads,
        "users_of_data": len(users),
        "items_of_data": len(catalog),
        "mean_length": float(users.lengths.mean()),
        "versions": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            **{package: version(package) for package in ("torch", "numpy")},
        },
    }
    kept = measured_before(options.out.with_suffix(".json"), result)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "statistics.npz"
        np.savez(file, **statistics)
        for by, sizes in sizes_of(options, len(users), len(catalog)).items():
            result[by] = [] if sizes else kept.get(by, [])
            for size in sizes:
                result[by].append(in_own_process(size, file))
                print(table(result[by], by), flush=True)
    write_json(options.out.with_suffix(".json"), result)
    tables = [table(result[by], by) for by in (BY_USERS, BY_ITEMS) if result[by]]
    write_atomically(options.out.with_suffix(".md"), "\n".join(tables).encode())
    plot(result, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
