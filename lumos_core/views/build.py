"""Gets the views of histories: stored ones from the store, missing ones from a writer."""

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lumos_core.views.titles.resumable import BudgetSpentError, OnStage, Work
from lumos_core.views.view import UserViews, ViewWriter, WriterFactory
from lumos_core.views.view_store import ViewStore

_BATCH = 32  # histories written and stored at a time; a killed process loses one batch at most


class BuildProgress(NamedTuple):
    """How far a build has come, in distinct histories."""

    stored: int
    """Found in the store when the build began."""
    generated: int
    """Written by this build so far."""
    total: int
    seconds: float
    """Since the build began, loading the model included."""

    @property
    def missing(self) -> int:
        return self.total - self.stored - self.generated


OnProgress = Callable[[BuildProgress], None]


def build_views(
    histories: Sequence[Sequence[int]],
    writer_factory: WriterFactory,
    fingerprint: str,
    store: ViewStore,
    *,
    seconds: float | None = None,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
    batch: int = _BATCH,
    share: float = 1.0,
) -> dict[int, UserViews]:
    """The views of each history; missing ones are written and stored while the budget lasts.

    Args:
        histories: catalog indices (1..N), chronological; empty ones get no views.
        writer_factory: called only if something is missing and the budget is not 0.
        fingerprint: that of the writer which the factory makes.
        store: read first; written after every batch, so that an interruption costs one batch.
        seconds: budget, None for no limit; the catalog's preparation counts as well. A positive
            budget always allows one piece of that preparation or one batch, so repeated calls
            finish the work even if loading the model alone takes longer than the budget.
        on_progress: called once before and after every batch.
        on_stage: called as the catalog's preparation advances, if there is anything to prepare.
        batch: histories per batch.
        share: share of the distinct histories that get views; always the same histories.

    Returns:
        position in ``histories`` -> views; histories beyond budget and share are absent.

    Raises:
        ValueError: the writer has another fingerprint than the one given.
    """
    start = time.monotonic()
    positions: dict[bytes, list[int]] = {}
    for position, history in enumerate(histories):
        if len(history):
            positions.setdefault(store.key(fingerprint, history), []).append(position)
    if share < 1.0:  # keys are digests, so the smallest ones are a random draw without a seed
        chosen = sorted(positions)[: math.ceil(share * len(positions))]
        positions = {key: positions[key] for key in chosen}
    found = store.get_many(positions)
    stored = len(found)

    def report() -> None:
        if on_progress is not None:
            elapsed = time.monotonic() - start
            on_progress(BuildProgress(stored, len(found) - stored, len(positions), elapsed))

    report()
    missing = [key for key in positions if key not in found]
    if missing and (seconds is None or seconds > 0):
        # similar lengths together: a batch is padded to its longest prompt
        missing.sort(key=lambda key: (len(histories[positions[key][0]]), key))
        writer = _writer(writer_factory, fingerprint, Work(seconds, on_stage))
        for first in range(0, len(missing), batch):
            if writer is None:
                break
            keys = missing[first : first + batch]
            written = writer.write([histories[positions[key][0]] for key in keys])
            new = dict(zip(keys, written, strict=True))
            store.put_many(new)
            found |= new
            report()
            if seconds is not None and time.monotonic() - start >= seconds:
                break
    return {position: views for key, views in found.items() for position in positions[key]}


def _writer(factory: WriterFactory, fingerprint: str, work: Work) -> ViewWriter | None:
    """The writer, or None if the budget ended during its preparation; the next call resumes it."""
    try:
        writer = factory(work)
    except BudgetSpentError:
        return None
    if writer.fingerprint != fingerprint:
        raise ValueError(f"writer {writer.fingerprint!r} is not the announced {fingerprint!r}")
    return writer
