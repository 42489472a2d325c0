"""Does the configured model run here, how fast, and what does it write? For ``lumos llm check``."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.data import Catalog
from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.data.sample import bundled_sample
from lumos_core.views.llm.find import llm_config
from lumos_core.views.llm.likelihood import Request, log_likelihoods
from lumos_core.views.llm.load import LocalLLM, load_llm
from lumos_core.views.titles.resumable import OnStage, Work
from lumos_core.views.view import UserViews
from lumos_core.views.writers.choose import Mode, choose_mode, make_writer, view_settings

_ITEMS = 160  # of the sample, so that a check takes seconds
_PROMPT, _CANDIDATES, _CANDIDATE, _REQUESTS = 96, 12, 10, 8  # tokens and counts of the speed test


@dataclass(frozen=True)
class ModelReport:
    """What the check found out about a model on this machine."""

    load_seconds: float
    parameters: int
    weight_bytes: int
    process_bytes: int
    """Resident memory of the process with the model loaded."""
    device: str
    dtype: str
    tokens_per_second: float
    """Read and scored in requests of the size of a user's, by wall clock."""
    mode: Mode
    """How the model was asked for the views."""
    view_seconds: float
    """For this one customer, by wall clock."""
    catalog: Catalog
    """The part of the bundled sample that the example is about."""
    history: tuple[int, ...]
    views: UserViews


def check_llm(config: RunConfig, on_stage: OnStage | None = None) -> ModelReport:
    """Load the model, time it, and write the views of one customer of the bundled sample.

    Args:
        config: the choice of model and mode, noun, number of items.
        on_stage: called as the sample's catalog is prepared, the first time.

    Raises:
        ModelError: the model cannot be found or loaded.
    """
    import psutil

    start = time.perf_counter()
    choice = llm_config(config)
    llm = load_llm(choice)
    load_seconds = time.perf_counter() - start
    catalog, history = example()
    mode, work = choose_mode(config, choice), Work(on_stage=on_stage)
    writer = make_writer(llm, choice, catalog, view_settings(config), mode, work)
    start = time.perf_counter()
    (views,) = writer.write([history])
    view_seconds = time.perf_counter() - start
    return ModelReport(
        load_seconds=load_seconds,
        parameters=llm.parameters,
        weight_bytes=llm.bytes,
        process_bytes=int(psutil.Process().memory_info().rss),
        device=str(llm.device),
        dtype=str(llm.model.dtype).removeprefix("torch."),
        tokens_per_second=tokens_per_second(llm),
        mode=mode,
        view_seconds=view_seconds,
        catalog=catalog,
        history=tuple(history),
        views=views,
    )


def tokens_per_second(llm: LocalLLM) -> float:
    """Speed of packed scoring, after one warming-up request."""
    words = llm.encode(" cup and saucer set with roses in a box of tin") or [llm.pad_id]

    def text(length: int, first: int = 0) -> list[int]:
        return [words[(first + i) % len(words)] for i in range(length)]

    candidates = [text(_CANDIDATE, first) for first in range(_CANDIDATES)]
    requests = [Request(text(_PROMPT, first), candidates) for first in range(_REQUESTS)]
    log_likelihoods(llm, requests[:1])
    before, start = llm.read.tokens, time.perf_counter()
    log_likelihoods(llm, requests)
    return (llm.read.tokens - before) / (time.perf_counter() - start)


def example() -> tuple[Catalog, list[int]]:
    """A catalog of some items of the bundled sample, and a customer's history in it."""
    with tempfile.TemporaryDirectory() as scratch:
        prepare(bundled_sample(), Path(scratch) / "data", nodes=1)
        catalog, (users,) = load_prepared(Path(scratch) / "data")
    history = users[0].tolist()[-8:]
    step = max(1, len(catalog) // _ITEMS)
    kept = np.union1d(history, np.arange(1, len(catalog) + 1, step)).tolist()
    return _subset(catalog, kept), [kept.index(item) + 1 for item in history]


def _subset(catalog: Catalog, items: Sequence[int]) -> Catalog:
    return Catalog(
        tuple(catalog.item_id(item) for item in items), tuple(catalog.title(item) for item in items)
    )
