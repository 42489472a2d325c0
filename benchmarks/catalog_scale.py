"""What grows with a catalog beside the language model: seconds and memory of every part, by size.

    python benchmarks/catalog_scale.py --out benchmarks/results/catalog_scale.json

Titles are drawn from the words of the bundled catalog, all of them different; states of the model
are random numbers of its size (three readings of 576 values a title), as the time of what follows
does not depend on their meaning. Each part runs in a process of its own with one thread, so that
its peak memory is its own; ``exponent`` says how the seconds grow between the two largest sizes: 1
is linear.

*found* is the share of each title's exact neighbours that are found, for some titles, where not
all are compared with all (``neighbours.py``); where half of a title's vector is random, as here,
fewer are found than in a real catalog.

*CPU-hours* of reading are not measured but extrapolated: tokens an item, and the rate, are those
that ``catalog_cost.json`` has measured on the bundled catalog.
"""

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from view_cost import users_of_nodes

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.learning.title_nearness import TitleNearness
from lumos_core.learning.title_start import principal_components
from lumos_core.safe_files import write_json
from lumos_core.views.llm import prompts
from lumos_core.views.titles.artefact_choice import meaning_of
from lumos_core.views.titles.catalog_artefact import (
    About,
    CatalogArtefact,
    TitleRows,
    title_key,
)
from lumos_core.views.titles.embeddings import Readings
from lumos_core.views.titles.frozen_basis import (
    FrozenBasis,
    Projection,
    WordingProjection,
    rarity_in_basis,
)
from lumos_core.views.titles.judgements import (
    NEIGHBOURS,
    WORDING_DIM,
    artefact_space,
)
from lumos_core.views.titles.neighbours import top_k
from lumos_core.views.titles.space import best_new, draw_far

SIZES = (25_000, 50_000, 100_000)
HIDDEN, TOKENS, VOCABULARY = 576, 9, 49_152  # of the bundled model
DIM, USERS, HISTORY, COMPARED = 64, 32, 20, 500
COST = Path(__file__).parent / "results" / "catalog_cost.json"


# ---------------------------------------------------------------- what is made up
def drawn_titles(count: int) -> tuple[str, ...]:
    """Different titles of three to eight words of the bundled catalog."""
    rng = np.random.default_rng(0)
    bundled, _ = users_of_nodes()
    words = sorted({word for title in bundled.titles for word in title.split()})
    titles: dict[str, None] = {}
    while len(titles) < count:
        titles[" ".join(rng.choice(words, rng.integers(3, 9)))] = None
    return tuple(titles)


def states(items: int, reading: int) -> Any:
    """float32 [N, HIDDEN]."""
    return np.random.default_rng(reading).standard_normal((items, HIDDEN), dtype=np.float32)


def catalog_of(folder: Path) -> Catalog:
    return Catalog.read(folder / "catalog.tsv")


def histories(items: int) -> list[list[int]]:
    drawn = np.random.default_rng(1).integers(1, items + 1, (USERS, HISTORY))
    return [list(map(int, row)) for row in drawn]


# ---------------------------------------------------------------- parts: building
def rarity(folder: Path) -> None:
    items = len(catalog_of(folder))
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, (items, TOKENS)).tolist()
    timed(lambda: rarity_in_basis(tokens))


def projections(folder: Path) -> None:
    items = len(catalog_of(folder))
    readings = [states(items, n) for n in range(3)]
    made = timed(lambda: [Projection.of(reading) for reading in readings])
    np.savez(folder / "projections.npz", **{
        f"{n}.{k}": getattr(p, k) for n, p in enumerate(made) for k in ("mean", "axes", "divisors")
    })  # fmt: skip


def read_projections(folder: Path) -> tuple[Projection, ...]:
    found = np.load(folder / "projections.npz")
    return tuple(
        Projection(*(found[f"{n}.{k}"] for k in ("mean", "axes", "divisors"))) for n in range(3)
    )


def wording_basis(folder: Path) -> None:
    titles = catalog_of(folder).titles
    made = timed(lambda: WordingProjection.of(titles, WORDING_DIM))
    np.save(folder / "coordinates.npy", made.coordinates)


def basis_of(folder: Path) -> FrozenBasis:
    titles = catalog_of(folder).titles
    wording = WordingProjection(titles, np.load(folder / "coordinates.npy"))
    return FrozenBasis(read_projections(folder), {1: 1.0}, 2.0, wording, ((1, 2, 3),))


def rows(folder: Path) -> None:
    basis, titles = basis_of(folder), catalog_of(folder).titles
    readings = Readings(*(states(len(titles), n) for n in range(3)))

    def made() -> tuple[Any, Any]:
        return basis.meaning(readings).astype(np.float16), basis.wording(titles).astype(np.float16)

    meaning, wording = timed(made)
    np.save(folder / "meaning.npy", meaning)
    np.save(folder / "wording.npy", wording)


def sealed_and_written(folder: Path) -> None:
    titles, basis = catalog_of(folder).titles, basis_of(folder)
    prior = np.full(len(titles), -20.0, dtype=np.float32)
    found = TitleRows(np.load(folder / "meaning.npy"), np.load(folder / "wording.npy"), prior)
    about = About("model", "llm", "none", RunConfig().llm_noun, "recipe", "0")

    def made() -> None:
        keys = map(title_key, titles)
        CatalogArtefact.sealed(about, basis, keys, found).write(folder / "catalog.safetensors")

    timed(made)


# ---------------------------------------------------------------- parts: using
def read_and_checked(folder: Path) -> None:
    timed(lambda: CatalogArtefact.read(folder / "catalog.safetensors"))


def neighbours(folder: Path) -> None:
    artefact, catalog = CatalogArtefact.read(folder / "catalog.safetensors"), catalog_of(folder)
    space = artefact_space(artefact, catalog)
    del artefact
    found, _ = timed(lambda: space.neighbours(NEIGHBOURS))
    some = np.sort(np.random.default_rng(3).choice(len(catalog), COMPARED, replace=False))
    scores = space.vectors[some] @ space.vectors.T
    scores[np.arange(COMPARED), some] = -np.inf
    best = top_k(scores, NEIGHBOURS) + 1
    shared = [len(set(a) & set(b)) for a, b in zip(found[some], best, strict=True)]
    say({"found, share of the exact": round(sum(shared) / best.size, 4)})


def title_space(folder: Path) -> None:
    artefact, catalog = CatalogArtefact.read(folder / "catalog.safetensors"), catalog_of(folder)
    timed(lambda: artefact_space(artefact, catalog))


def candidates(folder: Path) -> None:
    artefact, catalog = CatalogArtefact.read(folder / "catalog.safetensors"), catalog_of(folder)
    space, users = artefact_space(artefact, catalog), histories(len(catalog))
    rng = np.random.default_rng(0)

    def made() -> None:
        scores = space.near(users, 2.0)
        best_new(scores, users, 100)
        for row, history in zip(scores, users, strict=True):
            draw_far(row, history, 10, rng)

    timed(made)


def title_start(folder: Path) -> None:
    artefact, catalog = CatalogArtefact.read(folder / "catalog.safetensors"), catalog_of(folder)
    vectors = meaning_of(artefact, catalog)
    del artefact
    timed(lambda: principal_components(vectors, DIM))


def nearness_vectors(folder: Path) -> None:
    catalog = catalog_of(folder)
    timed(lambda: TitleNearness.of(catalog))


def nearness_of_users(folder: Path) -> None:
    catalog = catalog_of(folder)
    titles = TitleNearness.of(catalog)
    users = [np.asarray(history) for history in histories(len(catalog))]
    timed(lambda: titles.near(users))


PARTS: dict[str, Callable[[Path], None]] = {
    "build: rarity of tokens": rarity,
    "build: projections of readings": projections,
    "build: basis of wording": wording_basis,
    "build: rows of all titles": rows,
    "build: digest, file": sealed_and_written,
    "use: read and checked": read_and_checked,
    "use: title space": title_space,
    "use: neighbours, once a machine": neighbours,
    f"use: candidates of {USERS} users": candidates,
    "use: starting embeddings (semantic-start = llm)": title_start,
    "use: TF-IDF vectors, once a machine": nearness_vectors,
    f"use: nearness of titles for {USERS} users": nearness_of_users,
}


def timed(work: Callable[[], Any]) -> Any:
    """Do the work; its seconds and peak memory go to the process that waits."""
    started = time.process_time()
    result = work()
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    say({"CPU-s": round(seconds, 2), "peak MiB": peak // 1024})
    return result


def say(facts: dict[str, float]) -> None:
    """To the process that waits."""
    print(json.dumps(facts), flush=True)


# ---------------------------------------------------------------- all of them
def measured(name: str, folder: Path, cache: Path) -> dict[str, float]:
    """One part, in a process of its own."""
    argv = [sys.executable, __file__, "--part", name, "--folder", str(folder)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **one, "LUMOS_CACHE": str(cache)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, float] = {}
    for line in done.stdout.strip().splitlines():
        found |= json.loads(line)
    return found


def tokens_of(titles: tuple[str, ...]) -> float:
    """Tokens of a title in a prompt, by the bundled model's tokenizer; of the first 2,000."""
    from lumos_core.views.llm.find import LLMConfig
    from lumos_core.views.llm.load import load_llm

    llm = load_llm(LLMConfig(threads=1))
    return float(np.mean([len(llm.encode(prompts.title_piece(t))) for t in titles[:2000]]))


def measure(sizes: tuple[int, ...]) -> dict[str, Any]:
    parts: dict[str, dict[str, Any]] = {name: {} for name in PARTS}
    sizes_of: dict[str, float] = {}
    for items in sizes:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            titles = drawn_titles(items)
            Catalog(tuple(map(str, range(items))), titles).write(folder / "catalog.tsv")
            for name in PARTS:
                parts[name][str(items)] = measured(name, folder, folder / f"cache-{name[:3]}")
                print(items, name, parts[name][str(items)], flush=True)
            size = (folder / "catalog.safetensors").stat().st_size
            sizes_of[str(items)] = round(size / 2**20, 1)
    for found in parts.values():
        found["exponent"] = exponent(found, sizes)
    return {"file, MiB": sizes_of, "parts": parts, "language model": reading(titles)}


def exponent(found: dict[str, Any], sizes: tuple[int, ...]) -> float | None:
    """How the seconds grow between the two largest sizes."""
    if len(sizes) < 2:
        return None
    a, b = (max(found[str(n)]["CPU-s"], 0.005) for n in sizes[-2:])
    return round(math.log(b / a) / math.log(sizes[-1] / sizes[-2]), 2)


def reading(titles: tuple[str, ...]) -> dict[str, Any]:
    """Tokens and hours of reading all titles, extrapolated."""
    cost = json.loads(COST.read_text())
    rate = cost["costs"]["artefact built, of all items"]
    each = rate["tokens an item"]
    return {
        "titles": len(titles),
        "tokens of a title here": round(tokens_of(titles), 1),
        "tokens read an item, measured on the bundled catalog": each,
        "tokens, extrapolated": round(each * len(titles)),
        "CPU-hours, extrapolated": round(rate["CPU-s an item"] * len(titles) / 3600, 2),
        "of": f"catalog_cost.json, {cost['dtype']}, one thread",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.part:
        PARTS[args.part](args.folder)
        return
    processor = platform.processor() or platform.machine()
    result = {"processor": processor, "threads": 1, **measure(tuple(args.sizes))}
    print(json.dumps(result, indent=2))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
