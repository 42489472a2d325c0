"""Settings of views and the fingerprints made of them, by which stored views are found again."""

import pytest

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.views.titles.resumable import Work
from lumos_core.views.writers.by_decoding import written_fingerprint
from lumos_core.views.writers.by_likelihood import writer_fingerprint
from lumos_core.views.writers.choose import view_factory, view_settings
from lumos_core.views.writers.controls import (
    RandomViewWriter,
    TfidfViewWriter,
    control_fingerprint,
)
from lumos_core.views.writers.view_settings import ViewSettings

CATALOG = Catalog(("a", "b"), ("x", "y"))
OTHER = ViewSettings("films", 3, 4, 6, 12, 9, "all")

EXPECTED = {
    "tfidf": (
        "5069f53b24b9be285e7ab737b1baf155c164d188a87e29181d598ce0e5f97040",
        "e86743c0376614011b740ff504113dcb4931f522c09b8d8e07d3eb3dd24de264",
    ),
    "random": (
        "2f84adb6e2fc7681570bd2f182a959ed8a48e1a46b4f30f2f993a47d213c5269",
        "d57943d1a10d96b88f6d596c5c664b7f6f2bb4955236044833daab779455cacc",
    ),
    "score": (
        "777f1d05cea2bb0ce5e323d90746cf58952a0a32e2020bedaa4c3f7d260c450d",
        "1e3027a5054f488319caf001feee9784a1c5fd3be709e16152e89327d7a804d4",
    ),
    "trie": (
        "693fad95bb0f3b59ac2fed4553cf1e907f3dcc505dd8d4b1f716de8ae9e1d96e",
        "75596366fda053b4a1ca0236d06a1bed0d21b72a22679bbff735f5ecdfe5dff8",
    ),
    "free": (
        "7e9a3c16d622819735097f107319c842264a3eba41553309fd4c00d3797505c3",
        "ae0f92b421bb2b0d9afb3f01c5906ed14cc6c66fd83afcc2d07cb7468c389364",
    ),
}
"""Fingerprints in stores: of the default settings and of OTHER. Those of controls are of version
0.1.0; those of the language model changed in 0.2.0, with its shorter prompts."""


def _fingerprint(writer: str, settings: ViewSettings) -> str:
    if writer == "tfidf":
        return TfidfViewWriter(CATALOG.titles, CATALOG.fingerprint, settings).fingerprint
    if writer == "random":
        return RandomViewWriter(len(CATALOG), CATALOG.fingerprint, settings).fingerprint
    if writer == "score":
        return writer_fingerprint("m", CATALOG, settings)
    return written_fingerprint("trie" if writer == "trie" else "free", "m", CATALOG, settings)


@pytest.mark.parametrize("writer", EXPECTED)
def test_fingerprints_are_those_of_stored_views(writer: str) -> None:
    """Views cost hours: what earlier versions stored must be found again."""
    found = (_fingerprint(writer, ViewSettings()), _fingerprint(writer, OTHER))
    assert found == EXPECTED[writer]


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ("tfidf", "92b282db921a308191c11d2dddb234e964e0e9f7d8a56c741dc43fce1cf9bf4a"),
        ("random", "904dee2936df7be4320826cf0d36007169d1ef8f98d5f24ea5edca177d1e7104"),
    ],
)
def test_controls_of_a_run_are_those_of_stored_views(views: str, expected: str) -> None:
    config = RunConfig(view_items=3, view_seed=9, llm_judges="all").replace(views=views)
    fingerprint, _ = view_factory(config, NodeConfig(data="unused"), CATALOG)
    assert fingerprint == expected


@pytest.mark.parametrize("views", ["tfidf", "random"])
def test_the_factory_of_a_control_makes_what_it_announces(views: str) -> None:
    config = RunConfig(view_items=1, view_seed=4).replace(views=views)
    fingerprint, factory = view_factory(config, NodeConfig(data="unused"), CATALOG)
    writer = factory(Work())
    assert writer.fingerprint == fingerprint
    assert len(writer.write([[1]])[0].future) == 1


def test_controls_do_not_heed_what_concerns_the_language_model() -> None:
    base = ViewSettings()
    same = base._replace(noun="films", prompt_items=1, candidates=50, judges="all")
    assert control_fingerprint("tfidf", "c", same) == control_fingerprint("tfidf", "c", base)
    for changed in ({"future_items": 1}, {"recent": 1}, {"seed": 1}):
        other = base._replace(**changed)
        assert control_fingerprint("tfidf", "c", other) != control_fingerprint("tfidf", "c", base)


def test_a_run_that_lets_the_model_judge_all_reads_more() -> None:
    assert view_settings(RunConfig()) == ViewSettings()
    all_views = view_settings(RunConfig(llm_judges="all", view_items=3, view_seed=2))
    assert all_views == ViewSettings(
        future_items=3, prompt_items=6, candidates=12, seed=2, judges="all"
    )
