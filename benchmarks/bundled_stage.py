"""Writes the arrays that ship with LUMOS for the bundled catalog: vectors and priors of its titles.

    python benchmarks/bundled_stage.py

About 15 tokens per item, half a minute of one core with bfloat16 instructions. Run it again when a
version in ``views/llm/prompts.py``, ``views/titles/embeddings.py`` or
``views/titles/judgements.py`` is raised, or the catalog's fingerprint changes;
``tests/integration/test_bundled_stage.py`` fails when it is due.
"""

import argparse
import tempfile
import time
from pathlib import Path

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.layout import CATALOG_FILE
from lumos_core.data.prepare import prepare
from lumos_core.data.sample import bundled_sample
from lumos_core.terminal.progress import Progress
from lumos_core.views.llm.find import LLMConfig
from lumos_core.views.llm.load import LocalLLM, load_llm
from lumos_core.views.titles.embeddings import embeddings_path, title_embeddings
from lumos_core.views.titles.judgements import catalog_tables, priors_path
from lumos_core.views.titles.resumable import StageProgress, Work
from lumos_core.views.titles.shipped import STAGE, write_shipped


def bundled_catalog() -> Catalog:
    """The bundled catalog, as ``lumos run`` prepares it."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(bundled_sample(), Path(folder) / "data", nodes=1, seed=0)
        return Catalog.read(Path(folder) / "data" / CATALOG_FILE)


def cache_names(llm: LocalLLM, catalog: Catalog) -> dict[str, str]:
    """The names under which the cache looks for the arrays."""
    noun, nowhere = RunConfig().llm_noun, Path()
    return {
        "vectors": embeddings_path(llm.fingerprint, catalog, nowhere).name,
        "prior": priors_path(llm.fingerprint, catalog, noun, nowhere).name,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=bundled_sample(), help="folder of the file")
    folder = parser.parse_args().out
    catalog, started = bundled_catalog(), time.process_time()
    with tempfile.TemporaryDirectory() as cache, Progress() as progress:
        llm = load_llm(LLMConfig(cache_dir=Path(cache)))
        tasks = {}

        def show(stage: StageProgress) -> None:
            if stage.stage not in tasks:
                tasks[stage.stage] = progress.task(stage.stage, stage.total, "items")
            tasks[stage.stage].update(stage.done)

        work = Work(on_stage=show)
        vectors = title_embeddings(llm, catalog, Path(cache), work)
        tables = catalog_tables(llm, catalog, RunConfig().llm_noun, Path(cache), work)
        write_shipped(
            folder, {"vectors": vectors, "prior": tables.prior}, cache_names(llm, catalog)
        )
    size = (folder / STAGE).stat().st_size / 2**20
    print(
        f"{folder / STAGE}: {len(catalog)} items, {size:.1f} MiB, "
        f"{llm.read.tokens / len(catalog):.1f} tokens an item, "
        f"{time.process_time() - started:.0f} CPU-seconds in {llm.model.dtype}"
    )


if __name__ == "__main__":
    main()
