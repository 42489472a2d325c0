"""What a view is, and what can write one."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from lumos_core.data.sequences import Sequences
from lumos_core.views.titles.resumable import Work


class UserViews(NamedTuple):
    """The three views of one history, as catalog indices (1..N)."""

    future: tuple[int, ...]
    """Items that plausibly come next; the encoder sees history + future."""
    paraphrase: tuple[int, ...]
    """The same intent in other items: same length and order as the (recent) history."""
    counterfactual: tuple[int, ...]
    """A history that contradicts the intent: same length as the (recent) history."""


class ViewWriter(Protocol):
    """Writes views for histories; deterministic given its fingerprint and the history."""

    fingerprint: str
    """All that views depend on except the history: model and revision, prompt version,
    decoding parameters, catalog or frozen basis, seed."""

    def write(self, histories: Sequence[Sequence[int]]) -> list[UserViews]:
        """One :class:`UserViews` per history (catalog indices, chronological)."""
        ...


WriterFactory = Callable[[Work], ViewWriter]
"""Makes a writer. Preparing one may take minutes; the given work limits that time."""
Views = Mapping[int, UserViews]
"""User's position in the histories -> views."""
ViewSource = Callable[[Sequences], Views]
"""Training histories → the views that exist; may write missing ones."""


def no_views(histories: Sequences) -> Views:
    """The view source of methods that need none."""
    return {}


BY_CONTENT = "items:"
"""Begins the fingerprint of a writer that does not depend on the whole catalog. Its views are found
by what the items of the history are, not by where they stand in the catalog."""


def writer_digest(kind: str, *parts: object, by_content: bool = False) -> str:
    """The fingerprint of a writer: SHA-256 hex of what it depends on.

    Args:
        kind: of the writer.
        parts: what it depends on.
        by_content: see :data:`BY_CONTENT`.
    """
    digest = hashlib.sha256("\0".join(map(str, (kind, *parts))).encode()).hexdigest()
    return f"{BY_CONTENT if by_content else ''}{digest}"
