"""A view writer: the first items of the catalog, as if they were what everybody wants."""

from collections.abc import Sequence

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.views.view import UserViews, WriterFactory, writer_digest


class PopularWriter:
    """Futures are the catalog's first items, paraphrases the history, the rest its last items."""

    def __init__(self, fingerprint: str, items: int, future_items: int) -> None:
        self.fingerprint = fingerprint
        self._items, self._future_items = items, future_items

    def write(self, histories: Sequence[Sequence[int]]) -> list[UserViews]:
        return [self._views(history) for history in histories]

    def _views(self, history: Sequence[int]) -> UserViews:
        future = tuple(range(1, min(self._future_items, self._items) + 1))
        return UserViews(future, tuple(history), (self._items,) * len(history))


def popular(config: RunConfig, node: NodeConfig, catalog: Catalog) -> tuple[str, WriterFactory]:
    """The writer's fingerprint, and a function that makes the writer when it is needed."""
    fingerprint = writer_digest("popular", catalog.fingerprint, config.view_items)
    return fingerprint, lambda work: PopularWriter(fingerprint, len(catalog), config.view_items)
