"""Quality of views: those of the LLM, of TF-IDF and random ones, measured on held-out items.

For a sample of users, views are written from the training history and compared with one held-out
item, which no writer has seen: the test item, or, for choosing settings, the validation item
(``--targets validation``). Settings chosen on a target must not be reported on the same target.

- in catalog: share of view items that are valid catalog indices;
- future hit: share of users whose held-out item is among the future items, with its standard error;
  'LLM minus this' is the difference paired by user, with its standard error;
- AUC by co-occurrence: how often a future (paraphrase) item is closer to the held-out items than a
  counterfactual item of the same user. Closeness: cosine of item co-occurrence in the training
  histories of all *other* users, which no client can see and no writer uses;
- AUC by titles: the same with the TF-IDF cosine of titles. It is independent of the language model,
  but it is what the TF-IDF writer optimises.

    python benchmarks/view_quality.py DATA_FOLDER … --out FILE.json --users 500
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from embedding_pooling import auc, load
from scipy.sparse import csr_array

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data import Catalog, LeaveOneOut
from lumos_core.data.sequences import Sequences
from lumos_core.terminal.tables import markdown_table
from lumos_core.views.titles.resumable import Work
from lumos_core.views.titles.space import Floats
from lumos_core.views.titles.tfidf import tfidf_vectors
from lumos_core.views.view import UserViews, ViewWriter
from lumos_core.views.writers.choose import view_factory

BATCH = 32
NOUNS = {"mind_small_5k": "news articles read by a reader"}


def co_occurrence(split: LeaveOneOut, items: int, without: np.ndarray) -> Floats:
    """[N, N] cosine between items' sets of users, without the sampled users."""
    train = split.train()
    kept = train.subset(np.setdiff1d(np.arange(len(train)), without))
    rows = np.repeat(np.arange(len(kept)), np.diff(kept.offsets))
    shape = (len(kept), items)
    matrix = csr_array((np.ones(len(rows), np.float32), (rows, kept.items - 1)), shape=shape)
    matrix.data[:] = np.minimum(matrix.data, 1)
    counts = np.maximum(np.sqrt(np.asarray((matrix * matrix).sum(axis=0))), 1e-9)
    return np.asarray((matrix.T @ matrix).toarray() / counts[:, None] / counts, np.float32)


def separation(views: list[UserViews], view: str, closeness: Floats, held: np.ndarray) -> float:
    """Mean over users of the AUC of a view's items against the user's counterfactual items."""
    scores = []
    for one, targets in zip(views, held, strict=True):
        positive = closeness[np.asarray(getattr(one, view), int) - 1][:, targets - 1].max(axis=1)
        negative = closeness[np.asarray(one.counterfactual) - 1][:, targets - 1].max(axis=1)
        if len(positive):
            scores.append(auc(positive[:, None], negative))
    return float(np.mean(scores))


def write_all(writer: ViewWriter, histories: list[list[int]]) -> list[UserViews]:
    """Write views in batches of similar lengths, as build_views does."""
    order = sorted(range(len(histories)), key=lambda u: len(histories[u]))
    views: dict[int, UserViews] = {}
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        views |= dict(zip(batch, writer.write([histories[u] for u in batch]), strict=True))
    return [views[u] for u in range(len(histories))]


def measure(
    catalog: Catalog, users: Sequences, config: RunConfig, count: int, targets: str
) -> dict[str, dict[str, float]]:
    """Writer -> measured values."""
    split = LeaveOneOut(users)
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(users))[:count])
    train = split.train()
    histories = [train[u].tolist() for u in chosen]
    position = -1 if targets == "test" else -2
    held = np.stack([users[u][[position]] for u in chosen])
    together = co_occurrence(split, len(catalog), chosen)
    vectors = tfidf_vectors(catalog.titles)
    alike = (vectors @ vectors.T).toarray()
    result: dict[str, dict[str, float]] = {}
    llm_hits = np.zeros(0)
    for kind in ("llm", "tfidf", "random"):
        changed = config.replace(views=kind)
        wall = time.process_time()
        writer = view_factory(changed, NodeConfig(data="."), catalog)[1](Work())
        catalog_seconds = time.process_time() - wall
        start = time.process_time()
        views = write_all(writer, histories)
        seconds = (time.process_time() - start) / count
        items = np.concatenate([np.concatenate(one) for one in views])
        hits = np.array([t[0] in one.future for one, t in zip(views, held, strict=True)], float)
        llm_hits = hits if kind == "llm" else llm_hits
        ahead = llm_hits - hits
        result[kind] = {
            "in catalog": float(((items >= 1) & (items <= len(catalog))).mean()),
            "future hit": float(hits.mean()),
            "± hit": float(hits.std() / count**0.5),
            "LLM minus this": float(ahead.mean()),
            "± difference": float(ahead.std() / count**0.5),
            **{
                f"AUC {view}, {name}": separation(views, view, closeness, held)
                for name, closeness in (("co-occurrence", together), ("titles", alike))
                for view in ("future", "paraphrase")
            },
            "catalog CPU-s": catalog_seconds,
            "CPU-s per user": seconds,
        }
        print(kind, {key: round(value, 4) for key, value in result[kind].items()}, flush=True)
    return result


def markdown(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """One table per data set."""
    parts = []
    for name, rows in results.items():
        columns = list(next(iter(rows.values())))
        cells = [[kind, *(f"{row[c]:.3f}" for c in columns)] for kind, row in rows.items()]
        parts.append(f"\n### {name}\n\n{markdown_table(['views', *columns], cells, align='l')}")
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", choices=("test", "validation"), default="test")
    parser.add_argument("--llm", default="smollm2")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for source in args.sources:
        catalog, users = load(source)
        noun = NOUNS.get(source.name, RunConfig().llm_noun)
        config = RunConfig().replace(llm=args.llm, llm_noun=noun, seed=args.seed)
        print(f"{source.name}: {len(catalog)} items, {len(users)} users", flush=True)
        results[source.name] = measure(
            catalog, users, config, min(args.users, len(users) // 2), args.targets
        )
    print(markdown(results))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")
        args.out.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    main()
