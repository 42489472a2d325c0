"""Makes, extends and checks a catalog artefact by reading titles with the language model."""

import hashlib
import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np

from lumos_core import __version__
from lumos_core.data.catalog import Catalog
from lumos_core.safe_files import exclusive, lock_beside
from lumos_core.views.llm import prompts
from lumos_core.views.llm.find import LLMConfig
from lumos_core.views.llm.load import LocalLLM
from lumos_core.views.titles import embeddings, judgements
from lumos_core.views.titles.catalog_artefact import (
    FORMAT_VERSION,
    About,
    CatalogArtefact,
    TitleRows,
    refuse,
    title_key,
)
from lumos_core.views.titles.embeddings import Readings, embedding_tokens, read_titles
from lumos_core.views.titles.frozen_basis import (
    FrozenBasis,
    Projection,
    WordingProjection,
    rarity_in_basis,
)
from lumos_core.views.titles.judgements import (
    WORDING_DIM,
    ListPrompt,
    prior_contexts,
    priors_behind,
    prompt_tokens,
)
from lumos_core.views.titles.resumable import Pieces, Work

log = logging.getLogger(__name__)

SAMPLE = 4
"""Titles that a machine reads itself before it uses a file of somebody else."""
MEANING_AGREES = 0.95
"""Least cosine of two readings of one title in two number formats or batches."""
WORDING_AGREES = 0.99
"""Least cosine of two projections of one title's wording, by two versions of scikit-learn."""
PRIOR_AGREES = 1.5
"""Largest difference of two readings of one title's prior, in natural logarithms."""


def recipe() -> str:
    """Versions of all that makes an artefact's arrays from titles and a model."""
    versions = (FORMAT_VERSION, judgements.VERSION, embeddings.VERSION, prompts.VERSION)
    numbers = (judgements.TITLE_TOKENS, embeddings.TITLE_TOKENS, embeddings.DIM, WORDING_DIM)
    return "/".join(map(str, versions + numbers))


def build_artefact(
    llm: LocalLLM, choice: LLMConfig, catalog: Catalog, noun: str, work: Work | None = None
) -> CatalogArtefact:
    """Read all titles of a catalog; equal ones once.

    Args:
        llm: the loaded model.
        choice: which one it is.
        catalog: becomes the basis of the artefact, and of all that extend it.
        noun: what a history is.
        work: budget and progress.

    Raises:
        BudgetSpentError: the time of ``work`` ended; the next call resumes.
    """
    about = About(llm.fingerprint, choice.llm, choice.quantization, noun, recipe(), __version__)
    titles = list(dict.fromkeys(catalog.titles))
    parts = ("build", about.model, about.noun, about.recipe, catalog.fingerprint)
    with _pieces(choice.cache, parts, work) as pieces:
        tokens = embedding_tokens(llm, catalog.titles)
        rarity, unseen = rarity_in_basis(tokens)
        readings = read_titles(llm, titles, pieces, rarity)
        row = {title: number for number, title in enumerate(titles)}
        all_rows = [row[title] for title in catalog.titles]
        prompt = ListPrompt(llm, prompts.list_head(noun), prompt_tokens(llm, catalog.titles))
        basis = FrozenBasis(
            tuple(Projection.of(states[all_rows]) for states in readings),
            rarity,
            unseen,
            WordingProjection.of(catalog.titles, WORDING_DIM),
            tuple(map(tuple, prior_contexts(prompt, len(catalog)))),
        )
        rows = _rows(llm, basis, titles, readings, pieces)
        return CatalogArtefact.sealed(about, basis, map(title_key, titles), rows)


def extend_artefact(
    artefact: CatalogArtefact,
    llm: LocalLLM,
    choice: LLMConfig,
    catalog: Catalog,
    work: Work | None = None,
) -> CatalogArtefact:
    """Add the titles of a catalog that an artefact lacks; its rows and its basis stay as they are.

    Args:
        artefact: made by the same model.
        llm: the loaded model; reads only the titles that are new.
        choice: which one it is.
        catalog: its other titles may be any.
        work: budget and progress.

    Raises:
        BudgetSpentError: the time of ``work`` ended; the next call resumes.
    """
    new = artefact.missing(catalog.titles)
    if not new:
        return artefact
    with _pieces(choice.cache, ("extend", artefact.about.digest, *new), work) as pieces:
        added = read_rows(llm, artefact.basis, new, pieces)
    rows = artefact.rows.followed_by(added)
    keys = [*(key.tobytes() for key in artefact.keys), *map(title_key, new)]
    return CatalogArtefact.sealed(artefact.about, artefact.basis, keys, rows)


def read_rows(
    llm: LocalLLM, basis: FrozenBasis, titles: Sequence[str], pieces: Pieces | None = None
) -> TitleRows:
    """The rows of titles by a frozen basis."""
    rarity = basis.rarity_in(embedding_tokens(llm, titles))
    return _rows(llm, basis, titles, read_titles(llm, titles, pieces, rarity), pieces)


def check_sample(
    path: Path, artefact: CatalogArtefact, llm: LocalLLM, titles: Sequence[str]
) -> None:
    """Read a few titles and compare them with what an artefact says about them. Which ones, nobody
    can foresee.

    Args:
        path: of the artefact; for the error.
        artefact: by the same model.
        llm: the loaded model.
        titles: to draw from; the artefact has them all.

    Raises:
        ArtefactError: it says something else than the model, or does not fit it.
    """
    check_fit(path, artefact.basis, llm)
    different = sorted(set(titles))
    drawn = secrets.SystemRandom().sample(different, min(SAMPLE, len(different)))
    said, read = artefact.of(drawn), read_rows(llm, artefact.basis, drawn)
    for row, title in enumerate(drawn):
        for name, least in (("meaning", MEANING_AGREES), ("wording", WORDING_AGREES)):
            cosine = _cosine(getattr(said, name)[row], getattr(read, name)[row])
            if cosine < least:
                _lies(path, title, f"a vector of {name} with cosine {cosine:.2f} to it", llm)
        difference = float(abs(said.prior[row] - read.prior[row]))
        if difference > PRIOR_AGREES:
            _lies(path, title, f"a prior that is {difference:.1f} off", llm)


def log_titles_read(llm: LocalLLM) -> None:
    """Tell the owner what a model that was loaded for the titles of a catalog has read."""
    if llm.read.tokens:
        log.info("titles of the catalog: %d tokens read by the language model", llm.read.tokens)


def check_fit(path: Path, basis: FrozenBasis, llm: LocalLLM) -> None:
    """Check that a basis has the sizes of a model: its hidden states, its tokens.

    Raises:
        ArtefactError: it has others.
    """
    hidden = len(basis.projections[0].mean)
    if hidden != llm.hidden_size:
        refuse(path, f"a basis for {hidden} hidden values", f"{llm.hidden_size}, as the model has")
    vocabulary = llm.model.get_input_embeddings().num_embeddings
    highest = max(map(max, basis.contexts))
    if highest >= vocabulary:
        refuse(path, f"a context with token {highest}", f"tokens below {vocabulary}")


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Of two rows of length 1; of two zero rows 1."""
    if not one.any() and not other.any():
        return 1.0
    return float(one.astype(np.float64) @ other.astype(np.float64))


def _lies(path: Path, title: str, found: str, llm: LocalLLM) -> NoReturn:
    refuse(
        path,
        f"for the title {title[:60]!r} {found}",
        f"what the model {llm.fingerprint[:16]} says when this machine asks it",
    )


def _rows(
    llm: LocalLLM,
    basis: FrozenBasis,
    titles: Sequence[str],
    readings: Readings,
    pieces: Pieces | None,
) -> TitleRows:
    contexts = [list(context) for context in basis.contexts]
    return TitleRows(
        basis.meaning(readings).astype(np.float16),
        basis.wording(titles).astype(np.float16),
        priors_behind(llm, contexts, prompt_tokens(llm, titles), pieces),
    )


@contextmanager
def _pieces(cache: Path, parts: Sequence[str], work: Work | None) -> Iterator[Pieces]:
    """Pieces of a computation, in a folder of the cache that no other process uses meanwhile; the
    folder is removed if the computation ends."""
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = cache / "catalogs" / f".artefact-{key[:24]}.pieces"
    with exclusive(lock_beside(folder)):
        pieces = Pieces(folder, work)
        yield pieces
        pieces.clear()
