"""Speed of a round with one user a client: trained together, as a loop over nodes, and as FELLAS's
published code goes through clients.

    python benchmarks/one_user_clients.py [DATA] [--users N] [--threads 2] [--out FILE.json]

DATA: prepared data, or anything ``lumos prepare`` reads (default: the bundled sample). All sides
do the same round, of the paper's setting: a tenth of the clients train five epochs, and every
client evaluates the model that it receives. The loops have one thread, as ``simulate`` gives it;
what trains together has ``--threads``. They take turns, and the median of ``--repeats`` counts.
Views are written beforehand by the TF-IDF writer. The loop of ``fellas_style.py`` ranks without the
nearness of titles; ``-c title-weight=0`` takes it from the others, too.

*training* is the exchange without evaluation, in clients that train a second; *round* is the
exchange with evaluation, in clients of the population a second; *server* is the seconds that the
checks and the aggregation of a round take afterwards; *CPU* is that of both
exchanges in milliseconds a client that trains (of the population, with evaluation). On a machine
with other work, look at the CPU, with ``--threads 1``. *difference* is the
largest one of the aggregated delta to that of the loop over nodes, without the bias of the
attention's keys: the gradient of that is 0 but for rounding errors, of which Adam makes steps.

*arithmetic alone* is what no arrangement of the same training can do without, with one thread: the
products of matrices, forward and back, of encoder and softmax, at the clients' mean length, and
Adam. Activations, norms, dropout, deltas and everything else are left out.

With ``--parts`` the training of what trains together is taken apart: the CPU of its operations by
kind, with one thread, and that of *two processes* with a thread each and half of the clients, which
is what threads could reach if none ever waited for another. The profiler makes operations dearer,
the more so the smaller they are, so *Python* is rather more than what is left for it.
"""

import argparse
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from fellas_style import FellasStyle

from lumos_core.cli.options import names, with_overrides
from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data import Catalog, LeaveOneOut, Sequences
from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.data.sample import bundled_sample
from lumos_core.federation.aggregator import Aggregator
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.one_user_clients import client_names
from lumos_core.federation.population import Population
from lumos_core.learning.adam import Adam
from lumos_core.learning.parameters import Params
from lumos_core.learning.title_start import initial_params
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table
from lumos_core.views.source import view_source
from lumos_core.views.view import Views, ViewSource, no_views
from lumos_core.wire.messages import Instruction, Transport

METHODS = "fedavg,fedavg-plus,lumos"
PAPER = RunConfig(
    semantic_start="tfidf", views="tfidf", local_epochs=5, fraction=0.1, weighting="uniform",
    aggregation="mean", clip="none",
)  # fmt: skip
LOOP, FELLAS, TOGETHER = "loop over nodes", "FELLAS-style loop", "together"
KEY_BIAS = "attention.qkv.bias"
KINDS = {
    "products of matrices": ("aten::bmm", "aten::mm", "aten::baddbmm", "aten::addmm"),
    "exponentials and sums of the softmax": (
        "aten::exp_", "aten::exp", "aten::amax", "aten::maximum", "aten::sum", "aten::logsumexp",
    ),
    "attention": (
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "random numbers of dropout": ("aten::bernoulli_",),
    "Adam": ("aten::_fused_adam_",),
    "norms and activations": (
        "aten::native_layer_norm", "aten::native_layer_norm_backward", "aten::gelu",
        "aten::gelu_backward",
    ),
    "rows: looked up, copied, filled": (
        "aten::copy_", "aten::fill_", "aten::cat", "aten::gather", "aten::index",
        "aten::index_select", "aten::embedding_dense_backward", "aten::scatter_add_",
    ),
}  # fmt: skip
"""Kinds of operations, and torch's names of those that belong to each."""
T = TypeVar("T")


@dataclass
class Side:
    """One way to do a round, and what its rounds cost."""

    transport: Transport
    threads: int
    training: list[float]
    rounds: list[float]
    server: list[float]
    training_cpu: list[float]
    rounds_cpu: list[float]
    delta: Params | None = None


def load(source: Path, limit: int) -> tuple[Catalog, Sequences]:
    """Catalog and users of prepared data, or of a data set to prepare."""
    if (source / "dataset.json").is_file():
        catalog, parts = load_prepared(source)
    else:
        with TemporaryDirectory() as folder:
            prepare(source, Path(folder) / "data", nodes=1, seed=0)
            catalog, parts = load_prepared(Path(folder) / "data")
    users = Sequences.concat(parts)
    return catalog, users.subset(range(min(limit, len(users)))) if limit else users


def written(config: RunConfig, catalog: Catalog, users: Sequences) -> Views:
    """The views of all users."""
    if not config.has_views:
        return {}
    with TemporaryDirectory() as folder:
        node = NodeConfig(data=folder, state=folder)
        return view_source(config, node, catalog)(LeaveOneOut(users).train())


def sides(config: RunConfig, catalog: Catalog, users: Sequences, threads: int) -> dict[str, Side]:
    views = written(config, catalog, users)

    def of_one(user: int) -> ViewSource:
        own = {0: views[user]} if user in views else {}
        return (lambda histories: own) if config.has_views else no_views

    nodes = [
        Node(name, catalog, users.subset([user]), config, of_one(user))
        for user, name in enumerate(client_names(len(users)))
    ]
    source: ViewSource = (lambda histories: views) if config.has_views else no_views
    return {
        LOOP: Side(InProcessTransport(nodes), 1, [], [], [], [], []),
        FELLAS: Side(FellasStyle(len(catalog), users, config, views), 1, [], [], [], [], []),
        TOGETHER: Side(Population(catalog, users, config, source), threads, [], [], [], [], []),
    }


def sampled_of(config: RunConfig, everyone: list[str], round: int) -> list[str]:
    """The clients that train in a round."""
    rng = np.random.default_rng([config.seed, round])
    count = max(int(config.fraction * len(everyone)), 1)
    found: list[str] = sorted(rng.choice(everyone, count, replace=False).tolist())
    return found


def measure(side: Side, config: RunConfig, params: Params, round: int) -> None:
    """One training and one whole round of the same clients."""
    torch.set_num_threads(side.threads)
    everyone = side.transport.nodes()
    sampled = sampled_of(config, everyone, round)
    train = [Instruction(n, "train", round, params) for n in sampled]
    seconds, cpu, _ = timed(lambda: side.transport.exchange(train, 600.0))
    side.training.append(seconds)
    side.training_cpu.append(cpu)
    others = sorted(set(everyone) - set(sampled))
    whole = [Instruction(n, "train", round, params, "validation") for n in sampled]
    whole += [Instruction(n, "evaluate", round - 1, params, "validation") for n in others]
    seconds, cpu, replies = timed(lambda: side.transport.exchange(whole, 600.0))
    side.rounds.append(seconds)
    side.rounds_cpu.append(cpu)

    def aggregate() -> Params:
        aggregator = Aggregator(config, params, round)
        for reply in replies:
            if reply.kind == "train":
                aggregator.offer(reply, evaluated=True)
        if aggregator.failed:
            raise SystemExit(f"refused: {aggregator.failed}")
        return aggregator.delta()

    seconds, _, side.delta = timed(aggregate)
    side.server.append(seconds)


def arithmetic(config: RunConfig, items: int, length: int, clients: int = 16) -> float:
    """CPU-milliseconds a client of the products and of Adam, for an encoder of transformer blocks.

    Args:
        items: N.
        length: of a training history.
        clients: that share a product of stacked matrices.
    """
    torch.set_num_threads(1)
    dim, met = config.dim, config.trains_met_rows
    sequences = 4 if config.objective == "tri-view" else 1
    shapes = [(dim, 3 * dim), (dim, dim), (dim, 2 * dim), (2 * dim, dim)] * config.layers
    weights = [torch.randn(clients, *shape) for shape in shapes]
    inputs = [torch.randn(clients, sequences * length, shape[0]) for shape in shapes]
    table = torch.randn(items + 1, dim) if met else torch.randn(clients, items + 1, dim)
    hidden = torch.randn(clients, length, dim)
    state = [*weights, torch.randn(clients, length, dim) if met else table.clone()]
    for parameter in state:
        parameter.grad = torch.randn_like(parameter)
    adam = Adam([p.requires_grad_() for p in state], config.learning_rate, config.weight_decay)

    def step() -> None:
        with torch.no_grad():
            for x, weight in zip(inputs, weights, strict=True):
                y = x @ weight
                _ = y @ weight.mT, x.mT @ y
            logits = (hidden.reshape(-1, dim) if met else hidden) @ table.mT
            _ = logits @ table
            if not met:  # each client moves all rows
                _ = logits.mT @ hidden
        adam.step()

    step()
    found = [timed(step)[1] for _ in range(10)]
    return 1000 * min(found) * config.local_epochs / clients


def timed(work: Callable[[], T]) -> tuple[float, float, T]:
    """Seconds, CPU-seconds of all threads, and what the work returns."""
    started, cpu = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - started, time.process_time() - cpu, found


def parts(population: Transport, config: RunConfig, params: Params) -> dict[str, Any]:
    """CPU-milliseconds a client of the training together by kind of operation, with one thread, and
    the clients a second of threads and of processes."""
    sampled = sampled_of(config, population.nodes(), 1)
    asked = [Instruction(name, "train", 1, params) for name in sampled]
    count = len(asked)

    def best(threads: int, of: list[Instruction]) -> tuple[float, float]:
        torch.set_num_threads(threads)
        return min(timed(lambda: population.exchange(of, 600.0))[:2] for _ in range(6))

    fork = get_context("fork")  # so that nothing has to be sent to the processes
    took = fork.SimpleQueue()

    def report(half: list[Instruction]) -> None:
        took.put(best(1, half)[0])

    _, whole = best(1, asked)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        population.exchange(asked, 600.0)
    by_name = {e.key: e.self_cpu_time_total / 1e6 for e in profiler.key_averages()}
    found = {
        kind: sum(by_name.pop(name, 0.0) for name in operations)
        for kind, operations in KINDS.items()
    }
    found["other operations"] = sum(s for name, s in by_name.items() if name.startswith("aten::"))
    found["Python, and torch between operations"] = whole - sum(found.values())
    halves = [asked[::2], asked[1::2]]
    for half in halves:
        fork.Process(target=report, args=(half,)).start()
    processes = max(took.get() for _ in halves)
    return {
        "cpu_ms": {kind: 1000 * seconds / count for kind, seconds in found.items()},
        "clients_per_second": {
            "one thread": count / best(1, asked)[0],
            "two threads": count / best(2, asked)[0],
            "two processes": count / processes,
        },
    }


def difference(one: Params | None, other: Params | None) -> float:
    assert one is not None
    assert other is not None
    return max(
        float(np.abs(array - other[name]).max())
        for name, array in one.items()
        if not name.endswith(KEY_BIAS)
    )


def compared(
    config: RunConfig, catalog: Catalog, users: Sequences, threads: int, repeats: int, apart: bool
) -> dict[str, Any]:
    """All sides of one method; ``apart``: with the parts of what trains together."""
    params = initial_params(config, catalog)
    both = sides(config, catalog, users, threads)
    for side in both.values():  # to warm up: lazy imports, views, titles
        measure(side, config.replace(fraction=1 / len(users)), params, 1)
        for costs in (side.training, side.rounds, side.server, side.training_cpu, side.rounds_cpu):
            costs.clear()
    for round in range(1, repeats + 1):
        for side in both.values():
            measure(side, config, params, round)
    trained = max(int(config.fraction * len(users)), 1)
    return {
        "method": config.method,
        "users": len(users),
        "trained": trained,
        "arithmetic_cpu_ms": arithmetic(
            config,
            len(catalog),
            max(int(LeaveOneOut(users).train().lengths.clip(max=config.max_len).mean()), 2),
        ),
        "sides": {
            name: {
                "threads": side.threads,
                "training_seconds": side.training,
                "round_seconds": side.rounds,
                "server_seconds": side.server,
                "training_cpu_seconds": side.training_cpu,
                "round_cpu_seconds": side.rounds_cpu,
                "difference": difference(both[LOOP].delta, side.delta),
            }
            for name, side in both.items()
        },
        **({"parts": parts(both[TOGETHER].transport, config, params)} if apart else {}),
    }


def table(runs: list[dict[str, Any]]) -> str:
    header = [
        "method", "clients", "", "threads", "training, clients/s", "round, clients/s",
        "server, s", "training, CPU", "round, CPU", "difference",
    ]  # fmt: skip
    rows = []
    for run in runs:
        speeds = {
            name: (
                run["trained"] / median(side["training_seconds"]),
                run["users"] / median(side["round_seconds"]),
            )
            for name, side in run["sides"].items()
        }
        for name, side in run["sides"].items():
            times = [new / old for new, old in zip(speeds[name], speeds[LOOP], strict=True)]
            shown = [
                f"{speed:,.0f}" + (f" (× {ratio:.1f})" if name != LOOP else "")
                for speed, ratio in zip(speeds[name], times, strict=True)
            ]
            rows.append(
                [
                    run["method"], f"{run['users']:,}", name, str(side["threads"]), *shown,
                    f"{median(side['server_seconds']):.2f}",
                    f"{1000 * median(side['training_cpu_seconds']) / run['trained']:.1f}",
                    f"{1000 * median(side['round_cpu_seconds']) / run['users']:.1f}",
                    f"{side['difference']:.1e}" if name != LOOP else "",
                ]
            )  # fmt: skip
        alone = [""] * len(header)
        alone[0], alone[2], alone[7] = (
            run["method"], "arithmetic alone", f"{run['arithmetic_cpu_ms']:.1f}"
        )  # fmt: skip
        rows.append(alone)
    return markdown_table(header, rows)


def parts_table(runs: list[dict[str, Any]]) -> str:
    """CPU-milliseconds a client by kind of operation, then what threads and processes reach."""
    header = ["training together", *(run["method"] for run in runs)]
    cpu = [
        [f"{kind}, CPU-ms a client", *(f"{run['parts']['cpu_ms'][kind]:.2f}" for run in runs)]
        for kind in runs[0]["parts"]["cpu_ms"]
    ]
    speeds = [
        [f"{how}, clients/s", *(f"{r['parts']['clients_per_second'][how]:.0f}" for r in runs)]
        for how in runs[0]["parts"]["clients_per_second"]
    ]
    return markdown_table(header, [*cpu, *speeds])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", default=bundled_sample())
    parser.add_argument("--users", type=int, default=0, help="only the first N users")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", action="store_true", help="also: what training consists of")
    parser.add_argument("--out", type=Path, help="JSON; a table goes beside it")
    parser.add_argument("-c", dest="settings", action="append", metavar="KEY=VALUE")
    options = parser.parse_args()

    catalog, users = load(options.data, options.users)
    runs = []
    for method in names(options.methods, "--methods"):
        config = with_overrides(PAPER.replace(method=method), options.settings)
        runs.append(
            compared(config, catalog, users, options.threads, options.repeats, options.parts)
        )
        print(table(runs[-1:]), flush=True)
        if options.parts:
            print(parts_table(runs[-1:]), flush=True)
    result = {
        "data": options.data.resolve().name,
        "items": len(catalog),
        "runs": runs,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "settings": options.settings or [],
        "versions": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            **{p: version(p) for p in ("torch", "numpy")},
        },
    }
    if options.out:
        write_json(options.out, result)
        text = table(runs) + ("\n" + parts_table(runs) if options.parts else "")
        write_atomically(options.out.with_suffix(".md"), text.encode())


if __name__ == "__main__":
    main()
