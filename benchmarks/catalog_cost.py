"""What a catalog artefact saves: tokens and CPU-seconds an item and a user, before and after.

    python benchmarks/catalog_cost.py --out benchmarks/results/catalog_cost.json

One run on the bundled catalog, one thread, an empty cache without the shipped stage. "The last 5 %"
are items at the end of the catalog, which are left out and then added.

- *judging all*: what every machine read before: titles, priors, substitutes, and users whose three
  views are all judged (``llm-judges = all``);
- *own reading*: what a machine without an artefact reads: titles, priors, and users;
- *artefact built*, *extended*: what one machine reads for all;
- *used*: what every other machine reads: a few titles, to compare; and users;
- *agreement*: how far the rows of one machine are from those of another, in the same number format
  and in the other one; what a machine tolerates (``artefact_reading.py``) has to be more;
- *alike*: share of items that the views by the artefact and by an own reading have in common.
  Counterfactuals are a random draw from a sorted tenth of the catalog: where two items change
  places, though hardly different, another one is drawn.

Tokens do not depend on the machine; CPU-seconds do. Substitutes and users are measured on a part,
and told per item and per user.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from view_cost import ONCE, Histories, alike, users_of_nodes

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.safe_files import write_json
from lumos_core.views.llm.find import LLMConfig
from lumos_core.views.llm.likelihood import log_likelihoods
from lumos_core.views.llm.load import DTYPE, LocalLLM, load_llm
from lumos_core.views.titles import artefact_reading, judgements
from lumos_core.views.titles.artefact_choice import Chosen, read_compared
from lumos_core.views.titles.artefact_reading import build_artefact, extend_artefact, read_rows
from lumos_core.views.titles.catalog_artefact import CatalogArtefact
from lumos_core.views.titles.judgements import CatalogTables, ListPrompt, catalog_tables
from lumos_core.views.view import UserViews
from lumos_core.views.writers.by_likelihood import LLMViewWriter
from lumos_core.views.writers.view_settings import ViewSettings

NOUN = RunConfig().llm_noun
GROWTH = 0.05
USERS, SUBSTITUTES, COMPARED = 96, 200, 300
_BATCH = 32


@contextmanager
def cost(llm: LocalLLM, into: dict[str, Any], name: str, count: int, unit: str) -> Iterator[None]:
    """Note what a part of the program costs."""
    tokens, started = llm.read.tokens, time.process_time()
    yield
    read, seconds = llm.read.tokens - tokens, time.process_time() - started
    into[name] = {
        "tokens": read,
        f"tokens {unit}": round(read / count, 1),
        "CPU-s": round(seconds, 1),
        f"CPU-s {unit}": round(seconds / count, 4),
    }
    print(name, into[name], flush=True)


def written(writer: LLMViewWriter, histories: Histories) -> list[UserViews]:
    """Views in batches, as a build writes them."""
    starts = range(0, len(histories), _BATCH)
    return [view for start in starts for view in writer.write(histories[start : start + _BATCH])]


def shortened(catalog: Catalog) -> Catalog:
    """The catalog without its last items."""
    kept = len(catalog) - round(GROWTH * len(catalog))
    return Catalog(catalog.item_ids[:kept], catalog.titles[:kept])


def cosines(one: Any, other: Any) -> Any:
    return (one.astype(np.float64) * other.astype(np.float64)).sum(axis=1)


def agreement(made: CatalogArtefact, choice: LLMConfig, titles: list[str]) -> dict[str, Any]:
    """How far rows that are read alone are from those of a file, by number format."""
    said, found = made.of(titles), {}
    for kind in ("bfloat16", "float32"):
        os.environ[DTYPE] = kind
        read = read_rows(load_llm(choice), made.basis, titles)
        found[kind] = {
            "least cosine, meaning": round(float(cosines(said.meaning, read.meaning).min()), 4),
            "least cosine, wording": round(float(cosines(said.wording, read.wording).min()), 4),
            "largest difference, prior": round(float(np.abs(said.prior - read.prior).max()), 3),
        }
    return found


def measure(cache: Path) -> dict[str, Any]:
    """All of it, in this process."""
    catalog, nodes = users_of_nodes()
    histories = nodes[-1][:USERS]
    choice = LLMConfig(threads=1, cache_dir=cache)
    llm, items, settings = load_llm(choice), len(catalog), ViewSettings()
    costs: dict[str, Any] = {}
    with cost(llm, costs, "own reading: titles, priors", items, "an item"):
        own = catalog_tables(llm, catalog, NOUN, cache)
    with cost(llm, costs, "judging all: substitutes", SUBSTITUTES, "an item"):
        some_substitutes(llm, own)
    with cost(llm, costs, "judging all: users", len(histories), "a user"):
        written(LLMViewWriter(llm, catalog, own, ONCE), histories)
    with cost(llm, costs, "own reading: users", len(histories), "a user"):
        views = written(LLMViewWriter(llm, catalog, own, settings), histories)
    few = shortened(catalog)
    with cost(llm, costs, "artefact built", len(few), "an item"):
        base = build_artefact(llm, choice, few, NOUN)
    with cost(llm, costs, "artefact extended by the last 5 %", items - len(few), "an item"):
        grown = extend_artefact(base, llm, choice, catalog)
    with cost(llm, costs, "artefact built, of all items", items, "an item"):
        made = build_artefact(llm, choice, catalog, NOUN)
    path = cache / "catalog.safetensors"
    made.write(path)
    with cost(llm, costs, "artefact used: compared, once a machine", items, "an item"):
        artefact = read_compared(Chosen(path, made.about), llm, catalog, cache)
    tables = catalog_tables(llm, catalog, NOUN, cache, artefact=artefact)
    with cost(llm, costs, "artefact used: users", len(histories), "a user"):
        by_file = written(LLMViewWriter(llm, catalog, tables, settings), histories)
    tables = catalog_tables(llm, catalog, NOUN, cache, artefact=grown)
    by_grown = written(LLMViewWriter(llm, catalog, tables, settings), histories)
    extended = costs["artefact extended by the last 5 %"]["tokens"]
    return {
        "dtype": str(llm.model.dtype).removeprefix("torch."),
        "items": items,
        "items added": items - len(few),
        "users": len(histories),
        "file, MiB": round(path.stat().st_size / 2**20, 2),
        "costs": costs,
        "growing by 5 % costs, share of the tokens of all items": round(
            extended / costs["artefact built, of all items"]["tokens"], 4
        ),
        "old rows are equal to the bit": all(
            np.array_equal(old, new[: len(old)])
            for old, new in zip(base.rows, grown.rows, strict=True)
        ),
        "tolerated": {
            "least cosine, meaning": artefact_reading.MEANING_AGREES,
            "least cosine, wording": artefact_reading.WORDING_AGREES,
            "largest difference, prior": artefact_reading.PRIOR_AGREES,
        },
        "agreement": agreement(made, choice, sorted(set(catalog.titles))[:COMPARED]),
        "alike: artefact and own reading": alike(views, by_file),
        "alike: extended artefact and own reading": alike(views, by_grown),
    }


def some_substitutes(llm: LocalLLM, own: CatalogTables) -> None:
    """What judging substitutes costs, for some items."""
    prompt = ListPrompt(llm, judgements.prompts.list_head(NOUN), own.titles)
    neighbours = own.space.neighbours(judgements.NEIGHBOURS)[0][:SUBSTITUTES]
    requests = [prompt.request([item], row.tolist()) for item, row in enumerate(neighbours, 1)]
    log_likelihoods(llm, requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as cache:
        result = {"processor": platform.processor() or platform.machine(), **measure(Path(cache))}
    print(json.dumps(result, indent=2))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
