"""Two versions of LUMOS in one run: tokens and CPU-seconds of views, and what the views are worth.

    git worktree add /tmp/before COMMIT
    python benchmarks/token_change.py /tmp/before --out benchmarks/results/token_change.json

Both read the bundled catalog with an empty cache (titles, priors), and write views of the same
users of the bundled sample, one after the other, each in a process of its own with one thread.

- *tokens*: those that go through the model, padding not counted; they do not depend on the machine;
- *same items*: share of the items of the earlier views that are in the later ones, too; of
  counterfactuals, which are a draw from the farthest tenth of the catalog, see ``catalog_cost.py``;
- *hits*: share of users whose validation or test item, which no writer sees, is in the view of the
  future. *difference*: later minus earlier, paired by user, with its standard error;
- *AUC*: how often an item of the view of the future is closer to the held-out items than a
  counterfactual of the same user, as in ``view_quality.py``.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from embedding_pooling import load
from view_quality import co_occurrence, separation, write_all

from lumos_core.config import RunConfig
from lumos_core.data import LeaveOneOut
from lumos_core.data.sample import bundled_sample
from lumos_core.safe_files import write_json
from lumos_core.views.llm.find import LLMConfig
from lumos_core.views.llm.load import load_llm
from lumos_core.views.titles.judgements import catalog_tables
from lumos_core.views.view import UserViews
from lumos_core.views.writers.by_likelihood import LLMViewWriter
from lumos_core.views.writers.choose import view_settings

HERE = Path(__file__).resolve().parent.parent
USERS = 354  # half of them: the other half tells which items belong together


def drawn(users: Any) -> Any:
    return np.sort(np.random.default_rng(0).permutation(len(users))[:USERS])


def measured(cache: Path) -> dict[str, Any]:
    """The costs and the views of the version that this process runs."""
    catalog, users = load(bundled_sample())
    train, config = LeaveOneOut(users).train(), RunConfig()
    histories = [train[u].tolist() for u in drawn(users)]
    llm = load_llm(LLMConfig(threads=1, cache_dir=cache))
    started = time.process_time()
    tables = catalog_tables(llm, catalog, config.llm_noun, cache)
    items = {"tokens": llm.read.tokens, "CPU-s": time.process_time() - started}
    writer = LLMViewWriter(llm, catalog, tables, view_settings(config))
    before, started = llm.read.tokens, time.process_time()
    views = write_all(writer, histories)
    of_users = {"tokens": llm.read.tokens - before, "CPU-s": time.process_time() - started}
    dtype = str(llm.model.dtype).removeprefix("torch.")
    cost = {"item": each(items, len(catalog)), "user": each(of_users, len(histories))}
    return {"dtype": dtype, "cost": cost, "views": views}


def each(cost: dict[str, float], count: int) -> dict[str, float]:
    return {
        "count": count,
        "tokens": round(cost["tokens"] / count, 1),
        "CPU-s": round(cost["CPU-s"] / count, 4),
    }


def in_process(checkout: Path, cache: Path) -> dict[str, Any]:
    """:func:`measured` by another version of the package, with the benchmarks of this one."""
    argv = [sys.executable, __file__, str(checkout), "--cache", str(cache)]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    found["views"] = [UserViews(*map(tuple, views)) for views in found["views"]]
    return found


def worth(views: list[list[UserViews]]) -> dict[str, Any]:
    """What the views of both versions say of held-out items."""
    catalog, users = load(bundled_sample())
    chosen = drawn(users)
    held = np.stack([users[u][[-2, -1]] for u in chosen])
    together = co_occurrence(LeaveOneOut(users), len(catalog), chosen)
    hits = np.array(
        [[[item in one.future for item in items] for one, items in zip(by, held, strict=True)]
         for by in views], float,
    )  # fmt: skip
    found: dict[str, Any] = {
        name: {
            "hits": round(float(hits[number].mean()), 4),
            "AUC future, co-occurrence": round(separation(by, "future", together, held), 4),
        }
        for number, (name, by) in enumerate(zip(("before", "after"), views, strict=True))
    }
    ahead = (hits[1] - hits[0]).mean(axis=1)
    found["hits, difference"] = round(float(ahead.mean()), 4)
    found["± difference"] = round(float(ahead.std() / len(ahead) ** 0.5), 4)
    for view in UserViews._fields:
        pairs = [
            (set(getattr(a, view)), set(getattr(b, view))) for a, b in zip(*views, strict=True)
        ]
        shared = sum(len(a & b) for a, b in pairs) / sum(len(a) for a, _ in pairs)
        found[f"same items, {view}"] = round(shared, 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="a checkout of the earlier version")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cache:
        print("\n" + json.dumps(measured(args.cache)))
        return
    found = []
    for checkout in (args.before.resolve(), HERE):
        with tempfile.TemporaryDirectory() as cache:
            found.append(in_process(checkout, Path(cache)))
            print(checkout, found[-1]["cost"], flush=True)
    result = {
        "processor": platform.processor() or platform.machine(),
        "dtype": found[1]["dtype"],
        "before": found[0]["cost"],
        "after": found[1]["cost"],
        "views": worth([one["views"] for one in found]),
    }
    print(json.dumps(result, indent=2))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
