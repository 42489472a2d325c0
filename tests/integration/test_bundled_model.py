"""The real bundled model: it loads, it judges sensibly, and it runs quantised on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lumos_core.data.catalog import Catalog
from lumos_core.errors import ModelError
from lumos_core.views.llm.find import LLMConfig, find_model
from lumos_core.views.llm.likelihood import Request, log_likelihoods
from lumos_core.views.llm.load import LocalLLM, load_llm
from lumos_core.views.llm.prompts import list_head
from lumos_core.views.titles.judgements import CatalogTables, ListPrompt, catalog_tables
from lumos_core.views.writers.by_likelihood import LLMViewWriter
from lumos_core.views.writers.view_settings import ViewSettings

pytestmark = pytest.mark.integration

TITLES = {
    "office": [
        "Black ink cartridge for HP printers",
        "Laser printer paper, 500 sheets",
        "Colour toner for laser printers",
        "Ballpoint pens, blue, box of 12",
        "Gel pens, assorted colours",
        "Desktop stapler with staples",
        "Envelopes, white, 100 pack",
        "Photo printer paper, glossy",
        "Printer cable, USB, 2 m",
    ],
    "pets": [
        "Dry dog food with chicken, 10 kg",
        "Dog leash, leather",
        "Cat litter, unscented",
        "Chew toy for dogs",
        "Cat food, salmon, 12 cans",
        "Dog bed, large",
        "Bird seed for parrots",
        "Cat scratching post",
        "Dog shampoo",
    ],
}
CATALOG = Catalog(
    tuple(f"{kind}-{n}" for kind in TITLES for n in range(9)),
    tuple(title for titles in TITLES.values() for title in titles),
)
OFFICE, PETS = set(range(1, 10)), set(range(10, 19))
SETTINGS = ViewSettings(future_items=3, recent=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def llm(cache: Path) -> LocalLLM:
    return load_llm(LLMConfig(cache_dir=cache, threads=1))


@pytest.fixture(scope="module")
def tables(llm: LocalLLM, cache: Path) -> CatalogTables:
    return catalog_tables(llm, CATALOG, SETTINGS.noun, cache)


def test_gguf_is_converted_once_and_for_all(llm: LocalLLM, cache: Path) -> None:
    (folder,) = [path for path in (cache / "models").iterdir() if path.is_dir()]
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    again = load_llm(LLMConfig(cache_dir=cache, threads=1))
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()) == before
    assert again.fingerprint == llm.fingerprint
    # a GGUF file elsewhere and the converted folder are the same model to the reader
    assert find_model(find_model("smollm2").location).revision == find_model("smollm2").revision
    assert load_llm(LLMConfig(str(folder), threads=1)).parameters == llm.parameters


def test_titles_of_a_kind_lie_together(tables: CatalogTables) -> None:
    cosines = tables.space.vectors @ tables.space.vectors.T
    np.fill_diagonal(cosines, np.nan)
    same = np.nanmean([np.nanmean(cosines[:9, :9]), np.nanmean(cosines[9:, 9:])])
    assert same > np.nanmean(cosines[:9, 9:]) + 0.05


def test_views_follow_the_history(llm: LocalLLM, tables: CatalogTables) -> None:
    writer = LLMViewWriter(llm, CATALOG, tables, SETTINGS)
    printing, pets = [1, 2, 3, 8], [10, 11, 13, 15]
    views = writer.write([printing, pets])
    assert writer.write([printing, pets]) == views
    for one, kind, other in zip(views, (OFFICE, PETS), (PETS, OFFICE), strict=True):
        assert len(set(one.future) & kind) >= 2
        assert len(set(one.paraphrase) & kind) >= 3
        assert len(set(one.counterfactual) & other) >= 3


def test_history_makes_what_fits_likelier(llm: LocalLLM, tables: CatalogTables) -> None:
    prompt = ListPrompt(llm, list_head(SETTINGS.noun), tables.titles)
    everything = list(range(1, len(CATALOG) + 1))
    printing, pets = log_likelihoods(
        llm, [prompt.request([1, 2], everything), prompt.request([10, 11], everything)]
    )
    gain = printing - pets  # the titles' own likelihoods cancel out
    rest = np.array([item not in (1, 2, 10, 11) for item in everything])
    office = np.array([item in OFFICE for item in everything])
    assert gain[office & rest].mean() > gain[~office & rest].mean() + 2


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantised_model_judges_alike(
    llm: LocalLLM, tables: CatalogTables, cache: Path, quantization: str
) -> None:
    try:
        small = load_llm(LLMConfig(quantization=quantization, cache_dir=cache, threads=1))  # type: ignore[arg-type]
    except ModelError as error:
        pytest.skip(f"bitsandbytes {quantization} does not run here: {error}")
    assert small.bytes < 0.8 * llm.bytes
    assert small.fingerprint != llm.fingerprint
    context = llm.encode("Products bought by a customer, in order:\n- Dog leash, leather\n-")
    request = [Request(context, tables.titles)]
    exact, rough = log_likelihoods(llm, request)[0], log_likelihoods(small, request)[0]
    assert np.corrcoef(exact, rough)[0, 1] > 0.9


def test_commands_build_resume_and_show(tmp_path: Path, cache: Path) -> None:
    node = tmp_path / "node"
    node.mkdir()
    CATALOG.write(node / "catalog.tsv")
    rows = ["user_id\titem_id\ttimestamp"]
    for user, items in {"ann": [0, 1, 2, 3, 4], "bob": [9, 10, 11, 12]}.items():
        rows += [f"{user}\t{CATALOG.item_ids[item]}\t{t}" for t, item in enumerate(items)]
    (node / "interactions.tsv").write_text("\n".join(rows) + "\n")

    def lumos(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", "from lumos_core.cli.app import main; main()", *arguments],
            env={**os.environ, "LUMOS_CACHE": str(cache), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "2 views written, 0 were there already" in lumos("views", "build", str(node))
    assert "0 views written, 2 were there already" in lumos("views", "build", str(node))
    shown = lumos("views", "show", "--user", "bob", str(node))
    assert "Dry dog food with chicken" in shown
    assert "counterfactual" in shown
