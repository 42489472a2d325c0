"""What a node can store in a SuperLink is bounded, and the server hears why."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import Message, ObjectTree, PushObjectRequest, PushObjectResponse

from lumos_core.flower import bounded_link
from lumos_core.flower.bounded_link import BYTES, MIB, OBJECTS, PIECE_BYTES, Ledger
from lumos_core.wire import reply_limits

INSTRUCTION, REPLY, SESSION = "instruction", "reply", "session"


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> list[ModuleType]:
    """Flower's modules; whatever is changed there is put back."""
    names = (bounded_link._HANDLERS, bounded_link._LINK, bounded_link._SQL)
    found = [importlib.import_module(name) for name in names]
    for name in ("pull_messages", "pull_object", "push_messages", "push_object"):
        monkeypatch.setattr(found[0], name, getattr(found[0], name))
    monkeypatch.setattr(found[1], "GRPC_MAX_MESSAGE_LENGTH", found[1].GRPC_MAX_MESSAGE_LENGTH)
    monkeypatch.setattr(found[2], "SQLITE_PRAGMAS", found[2].SQLITE_PRAGMAS)
    for module, state in bounded_link._STATES.items():
        owner = getattr(importlib.import_module(module), state)
        monkeypatch.setattr(owner, "get_object", owner.get_object)
    return found


def tree(objects: int) -> ObjectTree:
    return ObjectTree(
        object_id=REPLY, children=[ObjectTree(object_id=f"o{n}") for n in range(objects - 1)]
    )


def announce(ledger: Ledger, objects: int) -> tuple[PushMessagesResponse, list[ObjectTree]]:
    """What a node is told about a reply of so many objects, and what Flower was given."""
    given: list[ObjectTree] = []

    def original(request: PushMessagesRequest, state: object) -> PushMessagesResponse:
        given.append(request.message_object_trees[0])
        return PushMessagesResponse(session_id=SESSION, objects_to_push=[REPLY])

    message = Message()
    message.metadata.reply_to_message_id = INSTRUCTION
    request = PushMessagesRequest(messages_list=[message], message_object_trees=[tree(objects)])
    response = bounded_link._push_messages(original, ledger)(request, None)
    return response, given


def test_a_reply_of_too_many_objects_is_announced_without_them(ledger: Ledger) -> None:
    ledger.instruction(INSTRUCTION, ("a", "b"))
    response, [kept] = announce(ledger, OBJECTS + 4)
    assert len(kept.children) == OBJECTS + 3
    assert response.objects_to_push == [REPLY]
    assert ledger.refusal(REPLY) is None
    response, [kept] = announce(ledger, OBJECTS + 5)
    assert kept == ObjectTree(object_id=REPLY)
    assert response.objects_to_push == []
    assert ledger.refusal(REPLY) == bounded_link.REFUSED + b"more than 2052 objects"


def test_a_piece_is_stored_only_as_part_of_an_announced_reply(ledger: Ledger) -> None:
    announce(ledger, 3)
    assert ledger.takes(SESSION, "o0", 10)
    assert not ledger.takes(SESSION, "another", 10)
    assert not ledger.takes("", "o0", 10)  # Flower would look for a session itself
    assert ledger.refusal("another") is None


def test_a_large_piece_is_refused_by_name(ledger: Ledger) -> None:
    announce(ledger, 3)
    assert ledger.takes(SESSION, "o0", PIECE_BYTES)
    assert not ledger.takes(SESSION, "o1", PIECE_BYTES + 1)
    for object_id in ("o1", REPLY):  # whichever the server asks for first
        assert b"a piece of 16777217 bytes" in (ledger.refusal(object_id) or b"")
    assert ledger.refusal("o0") is None


def test_a_reply_may_hold_twice_the_instruction(ledger: Ledger) -> None:
    ledger.instruction(INSTRUCTION, ("a", "b"))
    ledger.fetched("a", 10 * MIB)
    ledger.fetched("a", 10 * MIB)  # by another node, too
    announce(ledger, 20)
    pieces = (BYTES + 20 * MIB) // (14 * MIB)
    assert all(ledger.takes(SESSION, f"o{n}", 14 * MIB) for n in range(pieces))
    assert not ledger.takes(SESSION, "o15", 14 * MIB)
    assert b"twice those of the instruction" in (ledger.refusal(REPLY) or b"")


def test_what_is_stored_is_never_replaced_by_a_refusal(ledger: Ledger) -> None:
    contents = {"there": b"content", "awaited": b""}
    get = bounded_link._get_object(lambda self, run, i: contents.get(i), ledger)
    ledger.refuse(("there", "awaited"), "too large")
    assert get(None, 1, "there") == b"content"
    assert get(None, 1, "awaited") == bounded_link.REFUSED + b"too large"
    assert get(None, 1, "unknown") is None


def test_a_refused_piece_does_not_reach_flower(ledger: Ledger) -> None:
    stored: list[str] = []

    def original(request: PushObjectRequest, state: object) -> PushObjectResponse:
        stored.append(request.object_id)
        return PushObjectResponse(stored=True)

    announce(ledger, 2)
    push = bounded_link._push_object(original, ledger, PushObjectResponse)
    for object_id in ("o0", "another"):
        request = PushObjectRequest(session_id=SESSION, object_id=object_id, object_content=b"x")
        assert push(request, None).stored == (object_id == "o0")
    assert stored == ["o0"]


def test_the_installed_flower_gets_the_limits(modules: list[ModuleType], ledger: Ledger) -> None:
    handlers, link, sql = modules
    assert bounded_link.install(ledger)
    assert link.GRPC_MAX_MESSAGE_LENGTH == bounded_link.REQUEST_BYTES
    assert dict(sql.SQLITE_PRAGMAS)["busy_timeout"] == "60000"
    assert dict(sql.SQLITE_PRAGMAS)["journal_mode"] == "WAL"
    request = PushObjectRequest(session_id="none", object_id="o", object_content=b"x")
    assert not handlers.push_object(request, None).stored


def test_another_version_is_left_alone(
    modules: list[ModuleType], monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.setattr(bounded_link, "version", lambda name: "1.40.0")
    before = modules[0].push_object
    assert not bounded_link.install(ledger)
    assert modules[0].push_object is before


def test_code_that_looks_different_is_left_alone(
    modules: list[ModuleType], monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.delattr(modules[1], "GRPC_MAX_MESSAGE_LENGTH")
    before = modules[0].push_object
    assert not bounded_link.install(ledger)
    assert modules[0].push_object is before


def test_only_the_program_of_this_python_is_run_with_limits() -> None:
    assert bounded_link.program("/elsewhere/flower-superlink") == ["/elsewhere/flower-superlink"]
    beside = Path(sys.executable).parent / "flower-superlink"
    assert bounded_link.program(str(beside))[-1] == "flower-superlink"


def test_the_superlinks_limits_are_looser_than_the_servers() -> None:
    """Else an honest reply could be refused: the SuperLink does not know the model."""
    assert BYTES > reply_limits.SPARE_BYTES * 2
    assert PIECE_BYTES > reply_limits.CHUNK_BYTES
    assert PIECE_BYTES > reply_limits.SPARE_BYTES
    assert reply_limits.ReplyLimits().objects < OBJECTS


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_link, "_REMEMBERED", 2)
    ledger = Ledger()
    for n in range(5):
        ledger.instruction(f"i{n}", ())
    assert list(ledger._instructions) == ["i3", "i4"]
