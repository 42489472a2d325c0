"""The Grid transport: names, deadlines, and replies that are not what they should be."""

import threading
import time

import httpx
import numpy as np
import pytest
from flower_in_process import InProcessGrid, node_context, tiny_config, write_nodes
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from client_app.client import app
from lumos_core.data import Catalog
from lumos_core.errors import FederationError
from lumos_core.flower import records, sign_off
from lumos_core.learning.model import get_params, new_model
from lumos_core.wire.messages import Instruction
from lumos_core.wire.versions import PROTOCOL
from server_app import grid_transport
from server_app.grid_transport import GridTransport, LinkLostError

ONE, LARGE = Array(np.float32([1])), Array(np.zeros(2_500_000, np.uint8))


@pytest.fixture
def folder(tmp_path):
    return write_nodes(tmp_path, nodes=3)


@pytest.fixture
def grid(folder):
    config = tiny_config(folder)
    return InProcessGrid(app, {100 + n: node_context(config, n) for n in range(3)})


@pytest.fixture
def transport(grid, folder):
    return GridTransport(grid, Catalog.read(folder / "catalog.tsv").fingerprint, poll=0.01)


@pytest.fixture
def params(folder):
    config = tiny_config(folder)
    return get_params(new_model(config, len(Catalog.read(folder / "catalog.tsv"))))


def known(transport):
    transport.nodes()  # asks
    return transport.nodes()


def train(params, *names):
    return [Instruction(n, "train", 1, params, "validation") for n in names]


def test_nodes_are_known_by_the_name_they_give(transport, grid):
    assert transport.nodes() == []  # asked, not yet answered
    assert transport.nodes() == ["node-0", "node-1", "node-2"]
    assert [m.metadata.message_type for m in grid.sent] == [records.DESCRIBE] * 3


def test_the_first_query_is_answered_from_the_introduction(transport, grid):
    names = known(transport)
    replies = transport.exchange([Instruction(n, "describe") for n in names], 5)
    assert [r.info["name"] for r in replies] == names
    assert len(grid.sent) == 3
    [again] = transport.exchange([Instruction("node-1", "describe")], 5)
    assert again.info["name"] == "node-1"
    assert len(grid.sent) == 4


def test_train_and_evaluate_instructions_travel_together(transport, grid, params):
    known(transport)
    before = len(grid.sent)
    instructions = [
        *train(params, "node-0", "node-1"),
        Instruction("node-2", "evaluate", 1, params, "validation"),
    ]
    replies = {r.node: r for r in transport.exchange(instructions, 20)}
    assert {n: r.kind for n, r in replies.items()} == {
        "node-0": "train", "node-1": "train", "node-2": "evaluate",
    }  # fmt: skip
    assert all(r.error is None for r in replies.values())
    assert replies["node-0"].arrays is not None
    assert replies["node-0"].arrays.keys() == params.keys()
    assert replies["node-2"].arrays is None
    payload = sum(a.nbytes for a in params.values())
    assert payload < replies["node-0"].bytes_up < 2 * payload + 2000
    assert payload < replies["node-0"].bytes_down < 2 * payload + 2000
    assert replies["node-2"].bytes_up < 1000
    # equal contents are one object, which Flower sends once per node and hashes once
    assert len({id(m.content) for m in grid.sent[before:]}) == 1


def test_a_silent_node_is_missing_and_the_deadline_holds(transport, grid, params):
    known(transport)
    grid.tamper[101] = lambda message, context: None
    started = time.monotonic()
    replies = transport.exchange(train(params, "node-0", "node-1", "node-2"), 1.0)
    assert {r.node for r in replies} == {"node-0", "node-2"}
    assert 0.9 < time.monotonic() - started < 10


def test_the_attendance_says_who_is_silent(grid, folder, params):
    class Book:
        asked, answered = [], []

        def ask(self, round_, nodes, seconds):
            self.asked.append((round_, nodes, seconds))

        def answer(self, node):
            self.answered.append(node)

    fingerprint = Catalog.read(folder / "catalog.tsv").fingerprint
    transport = GridTransport(grid, fingerprint, poll=0.01, attendance=Book())
    known(transport)
    transport.exchange([Instruction("node-0", "describe")], 5)
    assert Book.asked == []  # only rounds are told
    grid.tamper[101] = lambda message, context: None
    transport.exchange(train(params, "node-0", "node-1", "node-2"), 1.0)
    assert Book.asked == [(1, ["node-0", "node-1", "node-2"], 1.0)]
    assert sorted(Book.answered) == ["node-0", "node-2"]


def test_an_upload_that_hangs_holds_up_nobody(transport, grid, params):
    """Flower blocks in pull_messages while a dying node's reply is incomplete."""
    known(transport)
    release = threading.Event()
    pull, hanging = grid.pull_messages, {}

    def pull_or_hang(ids):
        if set(ids) & hanging.keys():
            release.wait(30)
            return []
        return pull(ids)

    def never_complete(message, context):
        hanging[message.metadata.message_id] = True

    grid.tamper[101] = never_complete
    grid.pull_messages = pull_or_hang
    started = time.monotonic()
    replies = transport.exchange(train(params, "node-0", "node-1", "node-2"), 2.0)
    release.set()
    assert {r.node for r in replies} == {"node-0", "node-2"}
    assert time.monotonic() - started < 10


def test_flowers_own_error_replies_go_to_the_node_that_was_asked(transport, grid, params):
    known(transport)
    secret = "KeyError:<'/home/anna/histories u17 bought i3'>"
    grid.tamper[102] = lambda message, context: Message(Error(3, secret), reply_to=message)
    replies = {r.node: r for r in transport.exchange(train(params, "node-0", "node-2"), 20)}
    assert replies["node-2"].error == "flower-3"
    assert "anna" not in repr(replies["node-2"])
    assert replies["node-0"].error is None


def garbage(content):
    return lambda message, context: Message(content, reply_to=message)


MALFORMED = {
    "empty": RecordDict(),
    "empty text": RecordDict({"error": ConfigRecord({"code": ""}), "delta": ConfigRecord({})}),
    "only metrics": records.encode_metrics({"users": 1}),
    "describe instead": records.encode_describe({"name": "node-0"}),
    "an extra record": RecordDict(
        {
            **records.encode_train({"w": np.zeros(2, np.float32)}, {"users": 1}),
            "history": ConfigRecord({"items": [4, 8, 15]}),
        }
    ),
    "terminal escapes": RecordDict({"\x1b[2J\x1b]0;x\x07": ConfigRecord({})}),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_replies_are_attributed_and_harm_nobody(transport, grid, params, content):
    known(transport)
    grid.tamper[101] = garbage(content)
    replies = {r.node: r for r in transport.exchange(train(params, "node-0", "node-1"), 20)}
    assert replies["node-1"].error is not None
    assert replies["node-1"].error.startswith(("malformed: ", "unknown"))
    assert "\x1b" not in replies["node-1"].error
    assert replies["node-1"].arrays is None
    assert replies["node-0"].error is None


def test_a_node_cannot_answer_for_another(transport, grid, params):
    known(transport)

    def claim(message, context):
        return Message(records.encode_error("bad-data", "node-0"), reply_to=message)

    grid.tamper[101] = claim
    replies = transport.exchange(train(params, "node-0", "node-1"), 20)
    assert {r.node: r.error for r in replies} == {"node-0": None, "node-1": "bad-data"}


def test_nodes_come_and_go(transport, grid, folder):
    config = tiny_config(folder)
    del grid.contexts[102]
    assert known(transport) == ["node-0", "node-1"]
    grid.contexts[102] = node_context(config, 2)
    assert known(transport) == ["node-0", "node-1", "node-2"]
    del grid.contexts[100]
    assert transport.nodes() == ["node-1", "node-2"]


def test_a_restarted_node_keeps_its_name_under_a_new_id(transport, grid, folder, params, capsys):
    known(transport)
    grid.tamper[101] = lambda message, context: None  # dead, but Flower does not know it yet
    grid.contexts[777] = node_context(tiny_config(folder), 1)
    assert known(transport) == ["node-0", "node-1", "node-2"]
    assert "node-1 has connected again" in capsys.readouterr().err
    [reply] = transport.exchange(train(params, "node-1"), 20)
    assert reply.error is None


def test_a_node_without_a_usable_name_is_left_out(transport, grid, capsys):
    grid.tamper[101] = garbage(records.encode_describe({"name": "../../etc\x1b[2J"}))
    assert known(transport) == ["node-0", "node-2"]
    logged = capsys.readouterr().err
    assert "left out" in logged
    assert "\x1b" not in logged
    asked = len(grid.sent)
    transport.nodes()
    assert len(grid.sent) == asked  # not asked again and again


def test_a_failing_node_is_known_by_name_and_refused_by_the_core(transport, folder):
    (folder / "node-1" / "interactions.tsv").unlink()
    assert known(transport) == ["node-0", "node-1", "node-2"]
    replies = transport.exchange([Instruction(f"node-{n}", "describe") for n in range(3)], 5)
    assert {r.node: r.error for r in replies} == {
        "node-0": None, "node-1": "bad-data", "node-2": None,
    }  # fmt: skip


def test_a_message_that_flower_does_not_take(transport, grid, params):
    known(transport)
    del grid.contexts[100]
    replies = {r.node: r.error for r in transport.exchange(train(params, "node-0", "node-1"), 20)}
    assert replies == {"node-0": "node-unavailable", "node-1": None}


def test_a_reply_that_flower_cannot_unpack_costs_only_its_sender(transport, grid, params):
    known(transport)
    pull, spoiled = grid.pull_messages, set()

    def spoil(message, context):
        spoiled.add(message.metadata.message_id)
        return app(message, context)

    def pull_or_fail(ids):
        if set(ids) & spoiled:
            raise ValueError("Unexpected set of `children`. \x1b[2J")
        return pull(ids)

    grid.tamper[101] = spoil
    grid.pull_messages = pull_or_fail
    replies = transport.exchange(train(params, "node-0", "node-1", "node-2"), 20)
    assert {r.node: r.error for r in replies} == {
        "node-0": None, "node-1": "malformed: cannot be unpacked", "node-2": None,
    }  # fmt: skip


def test_whatever_reading_a_reply_raises_is_the_replys_fault(transport, grid, params, monkeypatch):
    known(transport)

    def fail(content):
        raise RecursionError("\x1b[2J")

    monkeypatch.setattr(records, "decode_train", fail)
    replies = transport.exchange(train(params, "node-1"), 20)
    assert [(r.node, r.error) for r in replies] == [("node-1", "malformed: cannot be read")]


def test_losing_the_superlink_is_an_error(transport, grid, params):
    known(transport)

    def fail(ids):
        raise OSError("connection refused")

    grid.pull_messages = fail
    with pytest.raises(FederationError, match="lost the connection to the SuperLink"):
        transport.exchange(train(params, "node-0"), 20)


def test_many_nodes_are_polled_by_few_threads(transport, grid, folder, params):
    config = tiny_config(folder)
    for n in range(40):
        grid.contexts[1000 + n] = node_context(config, n % 3, name=f"v{n}")
    names = known(transport)
    assert len(names) == 43
    before = threading.active_count()
    seen = []
    pull = grid.pull_messages

    def watched(ids):
        seen.append(threading.active_count())
        return pull(ids)

    grid.pull_messages = watched
    instructions = [Instruction(n, "evaluate", 1, params, "validation") for n in names]
    assert len(transport.exchange(instructions, 60)) == 43
    assert max(seen) <= before + 16


def test_a_registered_name_belongs_to_its_key(grid, folder):
    fingerprint = Catalog.read(folder / "catalog.tsv").fingerprint
    names = {100: "node-0", 101: "node-2"}  # 101 calls itself node-1, and 102 has no name
    assert known(GridTransport(grid, fingerprint, poll=0.01, registered=names)) == ["node-0"]


def test_a_node_that_was_left_out_is_asked_again(grid, folder, monkeypatch):
    names = {100: "node-0", 101: "node-1"}
    transport = GridTransport(grid, Catalog.read(folder / "catalog.tsv").fingerprint, 0.01, names)
    assert known(transport) == ["node-0", "node-1"]
    names[102] = "node-2"
    monkeypatch.setattr("server_app.grid_transport.DESCRIBE_SECONDS", -1.0)
    transport.nodes()
    monkeypatch.undo()
    assert transport.nodes() == ["node-0", "node-1", "node-2"]


def test_a_node_that_is_registered_meanwhile_is_asked_at_once(grid, folder):
    """It may be connected before the file with its name is there."""
    names = {100: "node-0", 101: "node-1"}
    transport = GridTransport(grid, Catalog.read(folder / "catalog.tsv").fingerprint, 0.01, names)
    assert known(transport) == ["node-0", "node-1"]
    for _ in range(3):
        assert transport.nodes() == ["node-0", "node-1"]
    names[102] = "node-2"
    assert known(transport) == ["node-0", "node-1", "node-2"]


def test_a_name_follows_its_key(grid, folder):
    """A node with another key has another id; what was there under the old one is gone."""
    names = {100: "node-0", 101: "node-1", 102: "node-2"}
    transport = GridTransport(grid, Catalog.read(folder / "catalog.tsv").fingerprint, 0.01, names)
    assert known(transport) == ["node-0", "node-1", "node-2"]
    del names[101]
    names[201] = "node-1"
    grid.contexts[201] = grid.contexts.pop(101)
    assert known(transport) == ["node-0", "node-1", "node-2"]
    assert transport._ids["node-1"] == 201


@pytest.mark.parametrize("registered", [None, {100: "node-0", 101: "node-1", 102: "node-2"}])
def test_a_node_whose_answer_was_lost_is_asked_again_soon(grid, folder, monkeypatch, registered):
    """Its ClientApp died, or it was restarted: that says nothing about its name."""
    fingerprint = Catalog.read(folder / "catalog.tsv").fingerprint
    transport = GridTransport(grid, fingerprint, 0.01, registered)
    now = [1000.0]
    monkeypatch.setattr(grid_transport.time, "monotonic", lambda: now[0])
    grid.tamper[101] = lambda message, context: Message(Error(5, "unavailable"), reply_to=message)
    for _ in range(3):
        transport.nodes()
    assert transport.nodes() == ["node-0", "node-2"]
    del grid.tamper[101]
    assert transport.nodes() == ["node-0", "node-2"]
    now[0] += grid_transport.LOST_SECONDS + 0.1
    transport.nodes()
    assert transport.nodes() == ["node-0", "node-1", "node-2"]


def test_a_lost_superlink_is_told_from_a_failed_run(transport, grid, params, monkeypatch):
    known(transport)

    def gone(*_):
        raise ConnectionRefusedError

    monkeypatch.setattr(grid, "push_messages", gone)
    with pytest.raises(LinkLostError):
        transport.exchange(train(params, "node-0"), 5)
    monkeypatch.setattr(grid, "get_node_ids", gone)
    with pytest.raises(LinkLostError):
        transport.nodes()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"metrics": MetricRecord({f"m{n}": n for n in range(65)})}, "65 entries, at most 64"),
        ({"error": ConfigRecord({"list": list(range(64))})}, "65 entries, at most 64"),
        ({"delta": ArrayRecord({f"a{n}": ONE for n in range(99)})}, "99 arrays, at most "),
        ({f"r{n}": MetricRecord() for n in range(9)}, "9 records, at most 8"),
        ({"error": ConfigRecord({"code": "x" * 2**22})}, "4194308 bytes beside arrays, at most 4"),
        ({"delta": ArrayRecord({"a": LARGE, "b": LARGE})}, "5000256 bytes of arrays, at most 4"),
    ],
)
def test_a_reply_that_is_too_large_is_refused_before_it_is_decoded(
    transport, grid, params, monkeypatch, content, problem
):
    known(transport)
    monkeypatch.setattr(records, "from_record", None)
    monkeypatch.setattr(records, "decode_error", None)
    grid.tamper[101] = lambda message, context: Message(RecordDict(content), reply_to=message)
    [reply] = transport.exchange(train(params, "node-1"), 5)
    assert (reply.node, reply.too_large) == ("node-1", True)
    assert reply.error.startswith(f"malformed: too large: {problem}")


def test_an_honest_or_otherwise_malformed_reply_is_not_too_large(transport, grid, params):
    known(transport)
    grid.tamper[101] = lambda message, context: Message(RecordDict(), reply_to=message)
    replies = transport.exchange(train(params, "node-0", "node-1"), 20)
    assert sorted((r.node, r.too_large) for r in replies) == [("node-0", False), ("node-1", False)]


def failing(call, times, status):
    """A function of the Grid that first fails, as Flower's client does."""
    left = [times]

    def attempt(*arguments):
        if left[0]:
            left[0] -= 1
            response = httpx.Response(status, request=httpx.Request("POST", "http://link"))
            raise httpx.HTTPStatusError("", request=response.request, response=response)
        return call(*arguments)

    return attempt


@pytest.mark.parametrize("name", ["get_node_ids", "push_messages", "pull_messages"])
def test_a_locked_database_is_no_lost_connection(transport, grid, params, monkeypatch, name):
    monkeypatch.setattr(grid_transport, "_AGAIN_SECONDS", (0.0, 0.0, 0.0))
    known(transport)
    monkeypatch.setattr(grid, name, failing(getattr(grid, name), 3, 500))
    assert len(transport.nodes()) == 3
    [reply] = transport.exchange(train(params, "node-1"), 20)
    assert reply.error is None


@pytest.mark.parametrize("name", ["get_node_ids", "push_messages"])
@pytest.mark.parametrize(("times", "status"), [(4, 500), (1, 401)])
def test_a_superlink_that_never_answers_is_lost(
    transport, grid, params, monkeypatch, name, times, status
):
    monkeypatch.setattr(grid_transport, "_AGAIN_SECONDS", (0.0, 0.0, 0.0))
    known(transport)
    monkeypatch.setattr(grid, name, failing(getattr(grid, name), times, status))
    calls = {
        "get_node_ids": transport.nodes,
        "push_messages": lambda: transport.exchange(train(params, "node-1"), 20),
    }
    with pytest.raises(LinkLostError):
        calls[name]()


def test_looks_for_replies_become_rarer_the_longer_a_round_takes():
    pauses = [grid_transport.pause(waited, 0.2, 4) for waited in (0.0, 1.0, 3.0, 10.0, 600.0)]
    assert pauses == pytest.approx([0.2, 0.2, 0.3, 0.5, 0.5])
    assert grid_transport.pause(0.0, 0.2, 100) == 2.0  # for many nodes from the beginning
    assert grid_transport.pause(0.0, 0.01, 1) == 0.02


def test_a_node_that_signs_off_is_gone_for_longer_than_a_pause():
    assert 2 * grid_transport.pause(600.0, grid_transport.POLL_SECONDS, 4) < sign_off.GONE_SECONDS


def spoken(grid):
    return [m.content["instruction"]["protocol"] for m in grid.sent]


def test_a_node_is_spoken_to_in_the_older_protocol(transport, grid, params):
    def tells(**facts):
        def answer(message, context):
            own = grid.app(message, context)
            own.content["node"].update(facts)
            return own

        return answer

    def tells_none(message, context):
        own = grid.app(message, context)
        for key in ("protocol", "flower", "python"):
            del own.content["node"][key]
        return own

    grid.tamper[100] = tells_none
    grid.tamper[101] = tells(protocol=str(PROTOCOL + 1))
    known(transport)
    grid.tamper.clear()
    before = len(grid.sent)
    replies = transport.exchange(train(params, "node-0", "node-1", "node-2"), 20)
    assert [r.error for r in replies] == [None] * 3
    assert spoken(grid)[before:] == [0, PROTOCOL, PROTOCOL]


def test_a_node_that_cannot_describe_itself_tells_its_versions(transport, grid):
    code = records.encode_error("bad-data", "node-1", {"version": "0.9.0", "protocol": "7"})
    grid.tamper[101] = garbage(code)
    known(transport)
    [reply] = transport.exchange([Instruction("node-1", "describe")], 5)
    assert reply.error == "bad-data"
    assert reply.info == {"version": "0.9.0", "protocol": "7"}


def test_a_late_reply_comes_in_the_same_talk_and_tells_its_round(transport, grid, params):
    known(transport)
    late = {}

    def hold_back(message, context):
        late[message.metadata.message_id] = app(message, context)

    grid.tamper[101] = hold_back
    with transport.talk() as talk:
        talk.send(train(params, "node-0", "node-1"), 60)
        first = talk.receive(20)
        talk.send([Instruction("node-0", "train", 2, params)], 60)
        second = talk.receive(20)
        grid.replies |= late
        third = talk.receive(20)
    found = [(reply.node, reply.round) for reply in (first, second, third)]
    assert found == [("node-0", 1), ("node-0", 2), ("node-1", 1)]


def test_a_long_talk_forgets_what_was_not_answered(transport, grid, params):
    """Otherwise every message that was lost would make the looks for replies rarer, for ever."""
    known(transport)
    grid.tamper[101] = lambda message, context: None
    with transport.talk() as talk:
        talk.send(train(params, "node-1"), 0.2)
        assert talk.receive(1.0) is None
        assert talk._sent == {}
