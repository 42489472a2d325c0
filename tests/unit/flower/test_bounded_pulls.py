"""What a reply holds is bounded before it is fetched, and before it is put together."""

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flower_in_process import identify
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectUnavailableError,
    inflate_object_from_contents,
)

from lumos_core.flower import bounded_link, bounded_pulls
from lumos_core.wire.reply_limits import ReplyLimits, ReplyTooLargeError

LIMITS = ReplyLimits(arrays=4, size=40_000, entries=8, small=4_000)


class StoredGrid:
    """A Grid whose SuperLink holds one reply in pieces."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents, self.fetched, self.deleted = contents, [], []
        self.node, self.run = None, SimpleNamespace(run_id=1)
        self._runtime_client = SimpleNamespace(
            ConfirmMessageReceived=lambda r: self.deleted.append(r.message_object_id)
        )

    def _fetch(self, object_id: str) -> bytes:
        self.fetched.append(object_id)
        return self.contents[object_id]

    def pull_messages(self, message_ids: list[str]) -> Iterator[Message]:
        module = importlib.import_module(bounded_pulls._GRID)
        ids = list(self.contents)
        found = module.pull_objects(object_ids=ids, pull_object_fn=self._fetch)
        yield inflate_object_from_contents(ids[-1], found)  # type: ignore[misc]


@pytest.fixture(autouse=True)
def flower(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module(bounded_pulls._GRID)
    original = getattr(module.pull_objects, "__wrapped__", None) or _original()
    monkeypatch.setattr(module, "pull_objects", original)
    assert bounded_pulls.install()
    return module


def _original() -> Callable[..., Any]:
    from flwr.supercore.inflatable.inflatable_utils import pull_objects

    return pull_objects


def stored(content: RecordDict) -> dict[str, bytes]:
    """The pieces of a message, children first, as the SuperLink lists them."""
    identify()
    message = Message(content, 1, "train")
    return {i: o.deflate() for i, o in get_all_nested_objects(message).items()}


def refusal(contents: dict[str, bytes]) -> tuple[str, StoredGrid]:
    grid = StoredGrid(contents)
    with pytest.raises(ReplyTooLargeError) as caught:
        bounded_pulls.pull(grid, "m", LIMITS)  # type: ignore[arg-type]
    assert grid.deleted == [list(contents)[-1]]
    return str(caught.value), grid


def test_a_reply_within_the_limits_arrives() -> None:
    arrays = {f"a{n}": Array(np.full(1000, n, np.float32)) for n in range(4)}
    content = RecordDict({"delta": ArrayRecord(arrays), "metrics": MetricRecord({"x": 1})})
    grid = StoredGrid(stored(content))
    message = bounded_pulls.pull(grid, "m", LIMITS)  # type: ignore[arg-type]
    assert message is not None
    assert message.content["delta"].keys() == arrays.keys()
    assert grid.deleted == []


def test_too_many_pieces_are_not_fetched() -> None:
    arrays = {f"a{n}": Array(np.float32([n])) for n in range(500)}
    reason, grid = refusal(stored(RecordDict({"delta": ArrayRecord(arrays)})))
    assert reason == f"1003 objects, at most {LIMITS.objects}"
    assert grid.fetched == []


def test_large_arrays_are_not_fetched_to_the_end() -> None:
    arrays = {f"a{n}": Array(np.full(9000, n, np.float32)) for n in range(4)}
    contents = stored(RecordDict({"delta": ArrayRecord(arrays)}))
    reason, grid = refusal(contents)
    assert "bytes of arrays, at most" in reason
    assert len(grid.fetched) < len(contents)


def test_a_record_of_many_entries_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = MetricRecord({f"m{n}": n for n in range(1000)})
    contents = stored(RecordDict({"metrics": metrics}))
    monkeypatch.setattr(MetricRecord, "inflate", None)
    assert "bytes beside arrays, at most 4000" in refusal(contents)[0]


def test_a_chunk_that_is_named_many_times_is_not_multiplied() -> None:
    """One chunk of zeros, sent once, would become an array of any size."""
    step = 5 * 2**20
    zeros = Array("uint8", (40 * step,), "numpy.ndarray", bytes(40 * step))
    contents = stored(RecordDict({"delta": ArrayRecord({"a": zeros})}))
    assert len(contents) == 5
    limits = ReplyLimits(arrays=4, size=10 * step)
    grid = StoredGrid(contents)
    with pytest.raises(ReplyTooLargeError, match=r"^2097\d+ bytes of arrays, at most 5\d+$"):
        bounded_pulls.pull(grid, "m", limits)  # type: ignore[arg-type]
    assert len(grid.fetched) == 5


def test_what_the_superlink_refused_is_named() -> None:
    contents = stored(RecordDict({"metrics": MetricRecord({"x": 1})}))
    last = list(contents)[-1]
    contents[last] = bounded_link.REFUSED + b"more than 4096 objects"
    assert refusal(contents)[0] == "refused by the SuperLink: more than 4096 objects"


def test_a_piece_that_is_not_there_yet_is_waited_for(flower: ModuleType) -> None:
    tries: list[str] = []

    def fetch(object_id: str) -> bytes:
        tries.append(object_id)
        if len(tries) == 1:
            raise ObjectUnavailableError(object_id)
        return b"ArrayChunk  1\x00x"

    with bounded_pulls._within(LIMITS):
        found = flower.pull_objects(["a"], fetch, initial_backoff=0.01)
    assert found == {"a": b"ArrayChunk  1\x00x"}


def test_without_limits_and_in_another_version_flower_is_as_it_was(
    flower: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert flower.pull_objects(["a"] * 300, lambda i: b"x") == {"a": b"x"}
    monkeypatch.setattr(flower, "pull_objects", _original())
    monkeypatch.setattr(bounded_pulls, "version", lambda name: "1.40.0")
    assert not bounded_pulls.install()
    assert flower.pull_objects is _original()
