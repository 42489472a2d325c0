"""The cost of the bundled sample's views: tokens and CPU-seconds, in bfloat16 and in float32.

    python benchmarks/view_cost.py --out benchmarks/results/view_cost.json

Conditions as on a new machine: an empty cache, the catalog's stage from the shipped file, three
nodes, one thread, batches as ``lumos run`` makes them. Each number format is measured in its own
process. CPU-seconds depend on the processor, and a little on its other work; tokens do not.

- *spelled out*: tokens of all prompts and candidates, if each had been read separately after its
  history;
- *read*, *padding*: tokens that went through the model;
- *alike*: share of a view's items that the same user's view in the other number format also has, at
  the same place;
- *judging all*: ``llm-judges = all`` with longer prompts, the default of earlier versions, for some
  users; substitutes are in order of nearness, so that it has only the cost of users.
"""

import argparse
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lumos_core.config import RunConfig
from lumos_core.data import Catalog
from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.data.sample import bundled_sample
from lumos_core.data.splits import LeaveOneOut
from lumos_core.safe_files import write_json
from lumos_core.views.build import build_views
from lumos_core.views.llm import likelihood
from lumos_core.views.llm.find import LLMConfig
from lumos_core.views.llm.load import DTYPE, LocalLLM, load_llm
from lumos_core.views.titles.judgements import catalog_tables
from lumos_core.views.titles.shipped import seed_cache
from lumos_core.views.view import UserViews
from lumos_core.views.view_store import ViewStore
from lumos_core.views.writers.by_likelihood import LLMViewWriter
from lumos_core.views.writers.view_settings import ViewSettings

NODES = 3
KINDS = ("bfloat16", "float32")
SAMPLE = 96  # users of the last node, for "judging all"
ONCE = ViewSettings(judges="all", prompt_items=6, candidates=12)

Histories = list[list[int]]


class Meter:
    """CPU-seconds and tokens of a part of the program."""

    def __init__(self, llm: LocalLLM) -> None:
        self._read = llm.read
        self._tokens, self._padding = llm.read.tokens, llm.read.padding
        self._start = time.process_time()
        self.spelled_out = 0

    def per_user(self, users: int) -> dict[str, float]:
        """CPU-seconds and tokens so far, per user; and the CPU-seconds in all."""
        seconds = time.process_time() - self._start
        return {
            "users": users,
            "tokens a user, spelled out": round(self.spelled_out / users, 1),
            "tokens a user, read": round((self._read.tokens - self._tokens) / users, 1),
            "tokens a user, padding": round((self._read.padding - self._padding) / users, 1),
            "CPU-s a user": round(seconds / users, 4),
            "CPU-s": round(seconds, 1),
        }


@contextmanager
def metered(llm: LocalLLM) -> Iterator[Meter]:
    """A meter that counts the tokens of requests for likelihoods."""
    meter, score = Meter(llm), likelihood.score_batch

    def counting(llm: LocalLLM, requests: Sequence[likelihood.Request]) -> Any:
        for context, candidates in requests:
            meter.spelled_out += len(context) + sum(map(len, candidates))
        return score(llm, requests)

    likelihood.score_batch = counting
    try:
        yield meter
    finally:
        likelihood.score_batch = score


def users_of_nodes() -> tuple[Catalog, list[Histories]]:
    """The bundled catalog, and the training histories of each node."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(bundled_sample(), Path(folder) / "data", nodes=NODES, seed=0)
        catalog, nodes = load_prepared(Path(folder) / "data")
    trains = [LeaveOneOut(sequences).train() for sequences in nodes]
    return catalog, [[train[u].tolist() for u in range(len(train))] for train in trains]


def timed_model(choice: LLMConfig) -> tuple[LocalLLM, float]:
    """The loaded model, and the CPU-seconds of loading it."""
    start = time.process_time()
    return load_llm(choice), round(time.process_time() - start, 2)


def measure(scratch: Path, judging_all: bool) -> tuple[dict[str, Any], list[UserViews]]:
    """Costs in this process's number format, and the views of all users."""
    catalog, nodes = users_of_nodes()
    choice = LLMConfig(threads=1, cache_dir=scratch / "cache")
    _, converting = timed_model(choice)
    llm, loading = timed_model(choice)
    start = time.process_time()
    seed_cache(choice.cache)
    tables = catalog_tables(llm, catalog, RunConfig().llm_noun, choice.cache)
    costs: dict[str, Any] = {
        "dtype": str(llm.model.dtype).removeprefix("torch."),
        "CPU-s, model converted, once a machine": converting,
        "CPU-s, model loaded, once a process": loading,
        "CPU-s, catalog, once a machine": round(time.process_time() - start, 2),
        "tokens, catalog": llm.read.tokens + llm.read.padding,
    }
    writer = LLMViewWriter(llm, catalog, tables, ViewSettings())
    views: list[UserViews] = []
    with metered(llm) as meter:
        for number, histories in enumerate(nodes):
            with ViewStore(scratch / f"{number}.sqlite") as store:
                found = build_views(histories, lambda _: writer, writer.fingerprint, store)
            views += [found[u] for u in range(len(histories))]
        costs["views"] = meter.per_user(len(views))
    if judging_all:
        once, some = LLMViewWriter(llm, catalog, tables, ONCE), nodes[-1][:SAMPLE]
        with metered(llm) as meter:
            for first in range(0, len(some), 32):
                once.write(some[first : first + 32])
            costs["judging all"] = meter.per_user(len(some))
    return costs, views


def alike(one: list[UserViews], other: list[UserViews]) -> dict[str, float]:
    """Shares of equal items, by view and over all three."""
    names = {view: (view,) for view in UserViews._fields} | {"all": UserViews._fields}
    result = {}
    for name, views in names.items():
        pairs = [
            (getattr(a, v), getattr(b, v)) for a, b in zip(one, other, strict=True) for v in views
        ]
        items = sum(len(set(a)) for a, _ in pairs)
        places = sum(len(a) for a, _ in pairs)
        result[f"{name}, same items"] = sum(len(set(a) & set(b)) for a, b in pairs) / items
        result[f"{name}, same places"] = (
            sum(x == y for a, b in pairs for x, y in zip(a, b, strict=True)) / places
        )
    return {name: round(value, 4) for name, value in result.items()}


def in_process(kind: str) -> tuple[dict[str, Any], list[UserViews]]:
    """:func:`measure` in a process that computes in one number format."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, __file__, "--into", scratch],
            env={**os.environ, DTYPE: kind, "OMP_NUM_THREADS": "1"},
            check=True,
        )
        found: tuple[dict[str, Any], list[UserViews]] = pickle.loads(
            (Path(scratch) / "result").read_bytes()
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.into:
        measured = measure(args.into, os.environ[DTYPE] == KINDS[0])
        (args.into / "result").write_bytes(pickle.dumps(measured))
        return
    measurements = [in_process(kind) for kind in KINDS]
    result = {
        "processor": platform.processor() or platform.machine(),
        "costs": [costs for costs, _ in measurements],
        "alike": alike(*(views for _, views in measurements)),
    }
    print(json.dumps(result, indent=2))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
