"""Chooses the view writer, and the mode in which the language model is asked for views.

- ``score``: it judges candidates by likelihood (:mod:`lumos_core.views.writers.by_likelihood`);
- ``trie``: it writes titles, restricted to those of the catalog;
- ``free``: it writes any text, and every line is matched to the most similar item.

Small models give useful answers only as judges. Above about a billion weights a model does better
if it writes titles itself, and the trie makes sure that they are titles of the catalog.
"""

from collections.abc import Callable
from typing import Literal

from lumos_core import plugins
from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.views.llm.find import LLMConfig, llm_config, model_fingerprint, model_size
from lumos_core.views.llm.load import LocalLLM, load_llm
from lumos_core.views.titles.artefact_choice import (
    Chosen,
    chosen_artefact,
    fetched_artefact,
    read_compared,
)
from lumos_core.views.titles.artefact_reading import log_titles_read
from lumos_core.views.titles.judgements import artefact_space, catalog_tables
from lumos_core.views.titles.resumable import Work
from lumos_core.views.titles.shipped import seed_cache
from lumos_core.views.view import ViewWriter, WriterFactory
from lumos_core.views.writers.by_decoding import (
    WrittenViewWriter,
    title_vectors,
    written_fingerprint,
)
from lumos_core.views.writers.by_likelihood import LLMViewWriter, writer_fingerprint
from lumos_core.views.writers.controls import (
    RandomViewWriter,
    TfidfViewWriter,
    control_fingerprint,
)
from lumos_core.views.writers.view_settings import ViewSettings

Mode = Literal["score", "trie", "free"]
ViewFactory = Callable[[RunConfig, NodeConfig, Catalog], tuple[str, WriterFactory]]
"""What a plug-in of group ``lumos.views`` has to be; see :func:`view_factory`."""
SMALL = 1_000_000_000  # weights up to which "auto" means "score"


def view_settings(config: RunConfig) -> ViewSettings:
    """The run's settings of views; a model that judges all views also reads more items."""
    settings = ViewSettings(
        config.llm_noun, config.view_items, seed=config.view_seed, judges=config.llm_judges
    )
    return settings._replace(prompt_items=6, candidates=12) if settings.judges_all else settings


def choose_mode(config: RunConfig, choice: LLMConfig) -> Mode:
    """``llm-mode``, with "auto" decided by the size of the model.

    Raises:
        ModelError: the model cannot be found.
    """
    if config.llm_mode != "auto":
        return config.llm_mode
    size = model_size(choice)
    return "score" if size is None or size <= SMALL else "trie"


def make_writer(
    llm: LocalLLM,
    choice: LLMConfig,
    catalog: Catalog,
    settings: ViewSettings,
    mode: Mode,
    work: Work | None = None,
    chosen: Chosen | None = None,
) -> ViewWriter:
    """A writer with a loaded model; the catalog is prepared first if nobody has done so yet.

    Args:
        llm: the model.
        choice: which one it is.
        catalog: the public catalog.
        settings: how views are written.
        mode: in which the model is asked.
        work: budget and progress.
        chosen: a catalog artefact that fits.

    Raises:
        BudgetSpentError: the time of ``work`` ended before the catalog was prepared.
        ArtefactError: the artefact is damaged, or does not say what the model says.
    """
    seed_cache(choice.cache)
    artefact = read_compared(chosen, llm, catalog, choice.cache) if chosen else None
    if mode == "score":
        made = catalog_tables(
            llm, catalog, settings.noun, choice.cache, work, settings.judges, artefact
        )
        return LLMViewWriter(llm, catalog, made, settings)
    if artefact is not None:
        space, basis = artefact_space(artefact, catalog), artefact.about.basis
    else:
        space, basis = title_vectors(llm, catalog, choice.cache, work), ""
    large = (model_size(choice) or 0) > SMALL
    # small models write worse titles in a chat template than as the continuation of plain text
    chat = large and llm.tokenizer.chat_template is not None
    return WrittenViewWriter(llm, catalog, space, settings, mode, chat, basis)


def llm_view_factory(
    config: RunConfig, node: NodeConfig, catalog: Catalog
) -> tuple[str, WriterFactory]:
    """The configured writer's fingerprint, and a function that makes the writer.

    Only that function loads the model.

    Raises:
        ModelError: the model cannot be found, or the catalog artefact is refused.
    """
    settings, choice = view_settings(config), llm_config(config, node)
    mode, model = choose_mode(config, choice), model_fingerprint(choice)
    chosen = None
    if node.use_catalog_artefact:
        fetched = None
        if node.fetch_catalog_artefact and config.catalog_artefact:
            fetched = fetched_artefact(choice.cache, config.catalog_artefact)
        chosen = chosen_artefact(config, catalog, model, settings.noun, fetched)
    basis = chosen.about.basis if chosen else ""
    known = (
        writer_fingerprint(model, catalog, settings, basis)
        if mode == "score"
        else written_fingerprint(mode, model, catalog, settings, basis)
    )

    def make(work: Work | None) -> ViewWriter:
        llm = load_llm(choice)
        try:
            return make_writer(llm, choice, catalog, settings, mode, work, chosen)
        finally:  # also if the time is over before all are read
            log_titles_read(llm)

    return known, make


def view_factory(
    config: RunConfig, node: NodeConfig, catalog: Catalog
) -> tuple[str, WriterFactory]:
    """A writer's fingerprint, and a function that makes the writer when it is needed.

    Args:
        config: ``views`` chooses the writer; "shuffled" views are the LLM's, exchanged between
            users by :func:`lumos_core.views.source.shuffled`. Other names are those of plug-ins.
        node: its LLM choice wins over the run's.
        catalog: the public catalog.
    """
    settings, known = view_settings(config), catalog.fingerprint
    if config.views == "random":
        return control_fingerprint("random", known, settings), lambda _: RandomViewWriter(
            len(catalog), known, settings
        )
    if config.views == "tfidf":
        return control_fingerprint("tfidf", known, settings), lambda _: TfidfViewWriter(
            catalog.titles, known, settings
        )
    if config.views in ("llm", "shuffled"):
        return llm_view_factory(config, node, catalog)
    factory: ViewFactory = plugins.load("views", config.views)
    return factory(config, node, catalog)
