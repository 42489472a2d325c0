"""Limits of what the ServerApp fetches of a reply, made by changing a private name of Flower 1.39.

A reply lies at the SuperLink in pieces: the message, its records, its arrays, and the arrays' data
in chunks. Flower first lists the pieces, then fetches all, then puts them together. Here a reply is
refused before the first piece is fetched if there are too many, while pieces are fetched if they
are too large, and before they are put together if the arrays are larger than their pieces: an array
may name the same chunk any number of times.

If Flower's version or code is another one, :func:`install` logs a warning. Then a reply is checked
after Flower has put it together (:func:`lumos_core.flower.records.check_size`).
"""

import importlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from lumos_core.flower.bounded_link import FLOWER, REFUSED
from lumos_core.wire.reply_limits import ReplyLimits, ReplyTooLargeError

log = logging.getLogger(__name__)

_GRID = "flwr.superlink.grid.http_grid"
_CHUNK, _ARRAY = b"ArrayChunk ", b"Array "  # how these objects begin
_limits: ContextVar[ReplyLimits | None] = ContextVar("reply_limits", default=None)


class _RefusedError(ReplyTooLargeError):
    """A refused reply, and the id of its message, with which it can be deleted."""

    message_id = ""


def install() -> bool:
    """Have every Grid of this process keep to the limits of :func:`pull`; returns whether it was
    done."""
    module = importlib.import_module(_GRID)
    if not version("flwr").startswith(FLOWER) or not callable(
        getattr(module, "pull_objects", None)
    ):
        log.warning("replies are checked only after they are unpacked: this is another Flower")
        return False
    if not hasattr(module.pull_objects, "bounded"):
        setattr(module, "pull_objects", _bounded(module.pull_objects))  # noqa: B010
    return True


def pull(grid: Grid, message_id: str, limits: ReplyLimits) -> Message | None:
    """The reply to a message, if it is there.

    Raises:
        ReplyTooLargeError: it exceeds the limits, and has been deleted.
    """
    with _within(limits):
        try:
            return next(iter(grid.pull_messages([message_id])), None)
        except _RefusedError as error:
            _delete(grid, error.message_id)
            raise ReplyTooLargeError(str(error)) from None


@contextmanager
def _within(limits: ReplyLimits) -> Iterator[None]:
    token = _limits.set(limits)
    try:
        yield
    finally:
        _limits.reset(token)


def _delete(grid: Any, message_id: str) -> None:
    """Delete a message at the SuperLink, as Flower does after it has fetched one."""
    try:
        module = importlib.import_module(_GRID)
        request = module.ConfirmMessageReceivedRequest(
            node=grid.node, run_id=grid.run.run_id, message_object_id=message_id
        )
        grid._runtime_client.ConfirmMessageReceived(request)
    except Exception as error:  # it only takes space until the run ends
        log.warning("a refused reply could not be deleted (%s)", type(error).__name__)


Contents = dict[str, bytes]


def _bounded(original: Callable[..., Contents]) -> Callable[..., Contents]:
    def pull_objects(
        object_ids: Sequence[str], pull_object_fn: Callable[[str], bytes], **options: Any
    ) -> Contents:
        limits = _limits.get()
        if limits is None:
            return original(object_ids, pull_object_fn, **options)
        try:
            limits.check("objects", len(object_ids), limits.objects)
            contents = original(object_ids, _counting(pull_object_fn, limits), **options)
            check_arrays(contents, limits)
        except ReplyTooLargeError as error:
            refused = _RefusedError(str(error))
            refused.message_id = object_ids[-1]  # the message comes after all that it is made of
            raise refused from None
        return contents

    setattr(pull_objects, "bounded", True)  # noqa: B010
    return pull_objects


def _counting(fetch: Callable[[str], bytes], limits: ReplyLimits) -> Callable[[str], bytes]:
    """Fetch pieces, until their sizes exceed a limit."""
    data: list[int] = []  # lists, because several threads fetch
    small: list[int] = []

    def counted(object_id: str) -> bytes:
        content = fetch(object_id)
        if content.startswith(REFUSED):
            raise ReplyTooLargeError(content.decode()[:200])
        (data if content.startswith(_CHUNK) else small).append(len(content))
        limits.check("bytes of arrays", sum(data), limits.size + limits.small)
        limits.check("bytes beside arrays", sum(small), limits.small)
        return content

    return counted


def check_arrays(contents: Mapping[str, bytes], limits: ReplyLimits) -> None:
    """Raises ReplyTooLargeError if the arrays, put together, would be too large."""
    total = 0
    for content in contents.values():
        if content.startswith(_ARRAY):
            head, _, body = content.partition(b"\x00")
            chunks = head.split(b" ")[1].decode().split(",")
            sizes = [len(contents.get(chunk, b"")) for chunk in chunks]
            total += sum(sizes[int(i)] for i in json.loads(body)["arraychunk_ids"])
    limits.check("bytes of arrays", total, limits.size + limits.small)
