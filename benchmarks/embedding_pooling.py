"""Which title vectors of a small language model predict the next item best, compared with TF-IDF?

For every user: the cosine between the recent history (recency-weighted mean of the last five items)
and the true next item, compared with random items (AUC) and with equally popular items (AUC); and
whether the next item is among the 16 or 50 nearest.

    python benchmarks/embedding_pooling.py DATA_FOLDER … --out FILE.json

DATA_FOLDER: anything ``lumos prepare`` reads. Only validation targets are used, no test items.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lumos_core.data import Catalog, LeaveOneOut
from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.data.sequences import Sequences
from lumos_core.terminal.tables import markdown_table
from lumos_core.views.llm.find import LLMConfig
from lumos_core.views.llm.load import load_llm
from lumos_core.views.titles.embeddings import Floats, combine, half_whiten, read_titles, unit
from lumos_core.views.titles.judgements import title_space
from lumos_core.views.titles.space import TitleSpace, exclude
from lumos_core.views.titles.tfidf import tfidf_vectors

RECENT, HALF_LIFE, NEGATIVES, WINDOW = 5, 2.0, 20, 25


def load(source: Path) -> tuple[Catalog, Sequences]:
    """Catalog and all users of a data set, 5-core."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(source, Path(folder) / "data", nodes=1, seed=0, k_core=5)
        catalog, nodes = load_prepared(Path(folder) / "data")
    return catalog, nodes[0]


class NextItem:
    """Ranks the validation item of some users among negatives, by title vectors."""

    def __init__(self, catalog: Catalog, users: Sequences, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        split = LeaveOneOut(users)
        histories, targets = split.validation()
        chosen = rng.permutation(len(users))[:count]
        self.seen = [histories[u] for u in chosen]
        self.recent = [history[-RECENT:] for history in self.seen]
        self.targets = targets[chosen]
        n = len(catalog)
        popularity = np.bincount(split.train().items, minlength=n + 1)[1:]
        order = np.argsort(popularity, kind="stable")
        rank = np.empty(n, dtype=np.int64)
        rank[order] = np.arange(n)
        near = rank[self.targets - 1][:, None] + rng.integers(
            -WINDOW, WINDOW + 1, (len(chosen), NEGATIVES)
        )
        self.random = rng.integers(0, n, (len(chosen), NEGATIVES))
        self.as_popular = order[np.clip(near, 0, n - 1)]

    def measure(self, space: TitleSpace) -> dict[str, float]:
        scores = space.near(self.recent, HALF_LIFE)
        rows = np.arange(len(self.targets))
        target = scores[rows, self.targets - 1][:, None]
        ranks = (exclude(scores, self.seen) > target).sum(axis=1)
        new = np.array([t not in seen for t, seen in zip(self.targets, self.seen, strict=True)])
        return {
            "auc random": auc(target, np.take_along_axis(scores, self.random, axis=1)),
            "auc as popular": auc(target, np.take_along_axis(scores, self.as_popular, axis=1)),
            "hit@16": float((ranks < 16)[new].mean()),
            "hit@50": float((ranks < 50)[new].mean()),
        }


def auc(positive: Floats, negative: Floats) -> float:
    """Share of pairs in which the positive is larger; ties count half."""
    return float(((positive > negative) + 0.5 * (positive == negative)).mean())


def candidates(catalog: Catalog, llm_name: str) -> dict[str, tuple[TitleSpace, float]]:
    """Name -> title space, and the CPU-seconds of computing it."""
    start = time.process_time()
    spaces = {"TF-IDF, words and characters": (tfidf_vectors(catalog.titles), 0.0)}
    spaces = {name: (v, time.process_time() - start) for name, (v, _) in spaces.items()}
    llm = load_llm(LLMConfig(llm_name))
    tokens = [llm.encode(f" {title}") for title in catalog.titles]
    table = llm.model.get_input_embeddings().weight.float().cpu().numpy()
    inputs = np.stack([table[row].mean(axis=0) for row in tokens])
    start = time.process_time()
    readings = read_titles(llm, catalog.titles)
    seconds = time.process_time() - start
    spaces |= {
        "input embeddings, mean": (inputs, 0.0),
        "input embeddings, mean, half-whitened": (half_whiten(inputs, 384), 0.0),
        "late layer, mean": (readings.meaning, seconds),
        "late layer, mean, half-whitened": (half_whiten(readings.meaning, 384), seconds),
        "early layer, rare tokens, half-whitened": (half_whiten(readings.words, 384), seconds),
        "in one word, last token, late layer": (readings.gist, seconds),
        "in one word, half-whitened": (half_whiten(readings.gist, 384), seconds),
        "all three, half-whitened (semantic start)": (combine(readings), seconds),
        "all three and TF-IDF (views)": (title_space(combine(readings), catalog), seconds),
    }
    return {
        name: (TitleSpace(unit(v) if isinstance(v, np.ndarray) else v), s)
        for name, (v, s) in spaces.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--llm", default="smollm2")
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    for source in args.sources:
        catalog, users = load(source)
        task = NextItem(catalog, users, args.users)
        print(f"\n{source.name}: {len(catalog)} items, {len(task.targets)} users")
        rows, cells = {}, []
        for name, (space, seconds) in candidates(catalog, args.llm).items():
            row = task.measure(space)
            rows[name] = row | {"cpu seconds": seconds}
            cells.append([name, *(f"{value:.3f}" for value in row.values()), f"{seconds:.0f}"])
        header = ("vectors", "AUC random", "AUC as popular", "hit@16", "hit@50", "CPU-s")
        print(markdown_table(header, cells, align="l"), end="", flush=True)
        result[source.name] = rows
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
