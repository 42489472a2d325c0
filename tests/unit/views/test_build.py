"""Building views: the store first, then the writer, never beyond the budget."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lumos_core.views.build import BuildProgress, build_views
from lumos_core.views.titles.resumable import Work
from lumos_core.views.view import UserViews, ViewWriter
from lumos_core.views.view_store import ViewStore


class CountingWriter:
    """Views that show which history they came from; counts what it is asked for."""

    fingerprint = "counting"

    def __init__(self, work: Work | None = None) -> None:
        self.written: list[tuple[int, ...]] = []

    def write(self, histories: Sequence[Sequence[int]]) -> list[UserViews]:
        self.written += [tuple(history) for history in histories]
        return [UserViews((history[-1],), tuple(history), (1,)) for history in histories]


@pytest.fixture
def store(tmp_path: Path) -> ViewStore:
    return ViewStore(tmp_path / "views.sqlite")


def forbidden(work: Work) -> ViewWriter:
    raise AssertionError("the writer was made although nothing is missing")


HISTORIES = [[1, 2, 3], [4], [1, 2, 3], [], [5, 6]]


def test_every_distinct_history_is_written_once(store: ViewStore) -> None:
    writer = CountingWriter()
    views = build_views(HISTORIES, lambda _: writer, "counting", store)
    assert sorted(writer.written) == [(1, 2, 3), (4,), (5, 6)]
    assert views.keys() == {0, 1, 2, 4}
    assert views[0] == views[2] == UserViews((3,), (1, 2, 3), (1,))


def test_second_build_makes_no_writer(store: ViewStore) -> None:
    first = build_views(HISTORIES, CountingWriter, "counting", store)
    seen: list[BuildProgress] = []
    again = build_views(HISTORIES, forbidden, "counting", store, on_progress=seen.append)
    assert again == first
    assert [(p.stored, p.generated, p.total, p.missing) for p in seen] == [(3, 0, 3, 0)]


def test_only_what_is_missing_is_written(store: ViewStore) -> None:
    build_views(HISTORIES[:2], CountingWriter, "counting", store)
    writer = CountingWriter()
    build_views(HISTORIES, lambda _: writer, "counting", store)
    assert writer.written == [(5, 6)]


def test_budget_of_zero_writes_nothing(store: ViewStore) -> None:
    assert build_views(HISTORIES, forbidden, "counting", store, seconds=0) == {}


def test_a_tiny_budget_still_advances_by_one_batch(store: ViewStore) -> None:
    histories = [[i, i + 1] for i in range(1, 11)]
    sizes = []
    for _ in range(4):
        views = build_views(histories, CountingWriter, "counting", store, seconds=1e-9, batch=3)
        sizes.append(len(views))
    assert sizes == [3, 6, 9, 10]


def test_an_interruption_keeps_finished_batches(store: ViewStore) -> None:
    class Interrupted(CountingWriter):
        def write(self, histories: Sequence[Sequence[int]]) -> list[UserViews]:
            if len(self.written) >= 4:
                raise KeyboardInterrupt
            return super().write(histories)

    histories = [[i] for i in range(1, 11)]
    with pytest.raises(KeyboardInterrupt):
        build_views(histories, Interrupted, "counting", store, batch=2)
    assert len(store) == 4


def test_writer_must_be_the_announced_one(store: ViewStore) -> None:
    with pytest.raises(ValueError, match="announced"):
        build_views(HISTORIES, CountingWriter, "another", store)
    assert len(store) == 0


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, lumos_core.views.build, lumos_core.views.view_store\n"
        "import lumos_core.views.writers.controls\n"
        "print([m for m in ('transformers', 'sklearn', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
