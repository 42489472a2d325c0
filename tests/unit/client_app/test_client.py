"""What the ClientApp sends, notes and keeps to itself."""

import json
import resource

import numpy as np
import pytest
from flower_in_process import identify, node_context, set_message_id, tiny_config, write_nodes
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from client_app import client
from client_app.client import app, node_config
from client_app.duties import DUTIES
from client_app.open_node import open_node
from lumos_core.data import Catalog
from lumos_core.data.layout import PREPARE_NODE
from lumos_core.flower import records
from lumos_core.flower.records import Order
from lumos_core.learning.model import get_params, new_model
from lumos_core.wire import versions
from lumos_core.wire.reply_checks import EVALUATION_METRICS, TRAIN_METRICS
from lumos_core.wire.versions import OLDEST, PROTOCOL


@pytest.fixture
def folder(tmp_path):
    identify()
    return write_nodes(tmp_path)


def params_of(config, folder):
    return get_params(new_model(config, len(Catalog.read(folder / "catalog.tsv"))))


def ask(kind, order, context):
    message = Message(records.encode_order(order), 100, kind, ttl=60.0)
    return app(set_message_id(message, "m1"), context)


def ledger(folder, node=0):
    lines = (folder / f"node-{node}" / "state" / "ledger.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_train_reply_holds_the_delta_and_the_agreed_counts_and_nothing_else(folder):
    config = tiny_config(folder)
    params = params_of(config, folder)
    order = Order(params, 1, "validation", "")
    content = ask(records.TRAIN, order, node_context(config, 0)).content

    layout = {name: type(record) for name, record in content.items()}
    assert layout == {"delta": ArrayRecord, "metrics": MetricRecord}
    assert {n: a.shape for n, a in content["delta"].items()} == {
        n: a.shape for n, a in params.items()
    }
    assert set(content["metrics"]) == TRAIN_METRICS | EVALUATION_METRICS
    assert all(type(value) in (int, float) for value in content["metrics"].values())
    arrays, metrics = records.decode_train(content)
    assert metrics["users"] == 6
    assert all(np.isfinite(a).all() for a in arrays.values())
    assert sum(float(np.square(a).sum()) for a in arrays.values()) > 0


def test_the_delta_is_local_minus_received(folder):
    """Training is seeded, so the local model can be made again here."""
    from lumos_core.config import NodeConfig

    config = tiny_config(folder)
    params = params_of(config, folder)
    context = node_context(config, 0)
    arrays, _ = records.decode_train(
        ask(records.TRAIN, Order(params, 3, None, ""), context).content
    )
    again, _ = open_node(config, NodeConfig.from_flat(context.node_config)).train(params, 3)
    assert all((arrays[n] == again[n]).all() for n in params)


def test_every_message_that_a_server_sends_has_a_duty():
    assert set(DUTIES) == set(records.MESSAGE_TYPES.values())


def test_a_message_without_a_duty_is_not_answered(folder):
    with pytest.raises(ValueError, match="No query function"):
        ask("query.histories", Order(None, 0, None, ""), node_context(tiny_config(folder), 0))


def test_evaluate_and_describe(folder):
    config = tiny_config(folder)
    order = Order(params_of(config, folder), 2, "test", "")
    content = ask(records.EVALUATE, order, node_context(config, 0)).content
    assert set(records.decode_metrics(content)) == EVALUATION_METRICS
    content = ask(records.DESCRIBE, Order(None, 0, None, ""), node_context(config, 1)).content
    facts = records.decode_describe(content)
    assert (facts["name"], facts["users"]) == ("node-1", "6")
    assert facts["catalog"] == Catalog.read(folder / "catalog.tsv").fingerprint


def test_tags_are_told_if_there_are_any(folder):
    order = Order(None, 0, None, "")
    for tags, told in (("", None), ("large,eu", "eu,large")):
        context = node_context(tiny_config(folder), 0, tags=tags)
        facts = records.decode_describe(ask(records.DESCRIBE, order, context).content)
        assert facts.get("tags") == told


def test_users_left_out_are_told_to_the_owner_alone(folder, capfd):
    with (folder / "node-0" / "interactions.tsv").open("a") as file:
        file.write("new\ti1\t1\n")
    order = Order(None, 0, None, "")
    content = ask(records.DESCRIBE, order, node_context(tiny_config(folder), 0)).content
    assert records.decode_describe(content)["users"] == "6"
    told = capfd.readouterr().err
    assert "data: 6 users (1 more left out: fewer than 3 interactions each)" in told


def test_the_ledger_shows_every_record_but_no_value(folder):
    config = tiny_config(folder)
    params = params_of(config, folder)
    reply = ask(records.TRAIN, Order(params, 4, None, ""), node_context(config, 0))
    arrays, metrics = records.decode_train(reply.content)
    [line] = ledger(folder)
    assert (line["round"], line["message"], line["run"]) == (4, "train", "1")
    *entries, numbers = line["records"]
    assert {e["array"]: (e["shape"], e["dtype"], e["bytes"]) for e in entries} == {
        n: (list(a.shape), "float32", a.nbytes) for n, a in arrays.items()
    }
    for entry in entries:
        assert entry["norm"] == pytest.approx(float(np.linalg.norm(arrays[entry["array"]])))
    assert numbers["names"] == sorted(metrics)
    assert set(numbers) == {"record", "names", "bytes"}

    ask(records.DESCRIBE, Order(None, 0, None, ""), node_context(config, 0))
    assert [e["message"] for e in ledger(folder)] == ["train", "query.describe"]


def test_nothing_leaves_that_the_ledger_cannot_show(folder):
    config = tiny_config(folder)
    state = folder / "node-0" / "state"
    (state / "ledger.jsonl").mkdir(parents=True)  # cannot be opened for writing
    order = Order(params_of(config, folder), 1, None, "")
    content = ask(records.TRAIN, order, node_context(config, 0)).content
    assert dict(content["error"]) == {"code": "ledger-failed"}
    assert list(content) == ["error"]


def test_a_disk_that_fills_up_leaves_no_half_line_in_the_ledger(folder):
    config = tiny_config(folder)
    order = Order(None, 0, None, "")
    ask(records.DESCRIBE, order, node_context(config, 0))
    path = folder / "node-0" / "state" / "ledger.jsonl"
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, limits[1]))
    try:
        content = ask(records.DESCRIBE, order, node_context(config, 0)).content
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content["error"]["code"] == "ledger-failed"
    assert path.read_bytes() == before


def broken_data(folder):
    path = folder / "node-0" / "interactions.tsv"
    path.write_text(path.read_text() + "u0x0\tno-such-item-4711\t99\n")


def another_catalog(folder):
    path = folder / "node-0" / "catalog.tsv"
    path.write_text(path.read_text() + "extra\tan extra thing\n")


def no_data(folder):
    (folder / "node-0" / "interactions.tsv").unlink()


FAULTS = {
    "unknown item": (broken_data, {}, "bad-data"),
    "no data": (no_data, {}, "bad-data"),
    "another catalog": (another_catalog, {}, "catalog-mismatch"),
    "unknown node key": (lambda folder: None, {"thread": 2}, "bad-configuration"),
    "no such device": (lambda folder: None, {"device": "secret-device"}, "internal-error"),
}


@pytest.mark.parametrize(("spoil", "facts", "code"), FAULTS.values(), ids=FAULTS.keys())
def test_failures_travel_as_a_code_and_stay_in_detail(folder, spoil, facts, code):
    config = tiny_config(folder)
    fingerprint = Catalog.read(folder / "catalog.tsv").fingerprint
    params = params_of(config, folder)
    spoil(folder)
    context = node_context(config, 0, **facts)
    content = ask(records.TRAIN, Order(params, 1, None, fingerprint), context).content
    assert {name: dict(record) for name, record in content.items()} == {"error": {"code": code}}
    if code != "bad-configuration":  # then not even the state folder is known
        log = (folder / "node-0" / "state" / "node.log").read_text()
        assert code in log
        assert "Traceback" in log


def test_the_log_of_failures_has_a_bound_and_one_old_generation(folder, monkeypatch):
    no_data(folder)
    order, context = Order(None, 0, None, ""), node_context(tiny_config(folder), 0)
    ask(records.DESCRIBE, order, context)
    log = folder / "node-0" / "state" / "node.log"
    one = log.stat().st_size
    monkeypatch.setattr(client, "LOG_BYTES", int(2.5 * one))
    for _ in range(6):
        ask(records.DESCRIBE, order, context)
    old = log.with_name("node.log.1")
    assert [text.read_text().count("Traceback") for text in (old, log)] == [2, 1]
    assert {path.name for path in log.parent.glob("node.log*")} == {"node.log", "node.log.1"}
    assert (old.stat().st_mode & 0o777, log.stat().st_mode & 0o777) == (0o600, 0o600)


def test_a_node_with_another_catalog_says_who_it_is_and_notes_the_reason(folder):
    config = tiny_config(folder)
    another_catalog(folder)
    order = Order(None, 0, None, "0" * 64)
    content = ask(records.DESCRIBE, order, node_context(config, 0)).content
    assert records.decode_describe(content)["name"] == "node-0"
    log = (folder / "node-0" / "state" / "node.log").read_text()
    assert "catalog.tsv has fingerprint" in log
    assert PREPARE_NODE in log


def test_a_failing_describe_still_names_the_node(folder):
    no_data(folder)
    context = node_context(tiny_config(folder), 0)
    content = ask(records.DESCRIBE, Order(None, 0, None, ""), context).content
    assert records.decode_error(content) == ("bad-data", "node-0")


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (records.TRAIN, records.encode_order(Order(None, 1, None, ""))),
        (records.EVALUATE, records.encode_order(Order({"w": np.zeros(2)}, 1, None, ""))),
        (records.TRAIN, RecordDict()),
        (records.TRAIN, RecordDict({"instruction": ConfigRecord({"round": "x"})})),
    ],
    ids=["train without a model", "evaluate without a split", "empty", "nonsense"],
)
def test_bad_instructions(folder, kind, content):
    message = set_message_id(Message(content, 100, kind, ttl=60.0), "m1")
    reply = app(message, node_context(tiny_config(folder), 0))
    assert dict(reply.content["error"]) == {"code": "bad-instruction"}


def test_virtual_nodes_find_their_folder(folder, monkeypatch):
    context = node_context(tiny_config(folder), 0)
    context.node_config = {"partition-id": 1, "num-partitions": 2}
    monkeypatch.setenv("LUMOS_SIMULATION_DATA", str(folder))
    config = node_config(context)
    assert (config.name, config.data) == ("node-1", str(folder / "node-1"))


def test_without_the_simulation_a_node_must_name_its_data(folder, monkeypatch):
    monkeypatch.delenv("LUMOS_SIMULATION_DATA", raising=False)
    context = node_context(tiny_config(folder), 0)
    context.node_config = {"partition-id": 1, "num-partitions": 2}
    reply = app(
        set_message_id(
            Message(records.encode_order(Order(None, 0, None, "")), 100, records.DESCRIBE), "m1"
        ),
        context,
    )
    assert dict(reply.content["error"]) == {"code": "bad-configuration"}


# ---------------------------------------------------------------- versions
def test_every_describe_reply_tells_the_versions_and_nothing_else_of_this_machine(folder):
    context = node_context(tiny_config(folder), 0)
    facts = records.decode_describe(
        ask(records.DESCRIBE, Order(None, 0, None, ""), context).content
    )
    assert {key: facts[key] for key in records.VERSION_KEYS} == versions.own().to_info()
    no_data(folder)
    content = ask(records.DESCRIBE, Order(None, 0, None, ""), context).content
    told = {"code": "bad-data", "name": "node-0", **versions.own().to_info()}
    assert dict(content["error"]) == told
    assert records.decode_error_versions(content) == versions.own().to_info()
    content = ask(records.TRAIN, Order(None, 1, None, ""), context).content
    assert dict(content["error"]) == {"code": "bad-data"}


@pytest.mark.parametrize(
    ("protocol", "kind", "code"),
    [
        (PROTOCOL + 1, records.TRAIN, "other-protocol"),
        (PROTOCOL + 1, records.SECURE, "other-protocol"),
        (PROTOCOL + 1, records.DESCRIBE, None),
        (OLDEST, records.TRAIN, None),
        (PROTOCOL, records.TRAIN, None),
        (-1, records.TRAIN, "bad-instruction"),
    ],
)
def test_what_a_node_does_not_speak_it_does_not_do(folder, protocol, kind, code):
    config = tiny_config(folder)
    params = None if kind == records.DESCRIBE else params_of(config, folder)
    order = Order(params, 1, None, "", protocol=protocol)
    content = ask(kind, order, node_context(config, 0)).content
    found = records.decode_error(content)
    assert (found and found[0]) == code


def test_an_instruction_of_the_release_before_has_no_protocol(folder):
    config = tiny_config(folder)
    content = records.encode_order(Order(params_of(config, folder), 1, None, ""))
    del content["instruction"]["protocol"]
    assert records.decode_order(content).protocol == 0
    message = set_message_id(Message(content, 100, records.TRAIN, ttl=60.0), "m1")
    reply = app(message, node_context(config, 0))
    assert set(reply.content) == ({"delta", "metrics"} if OLDEST == 0 else {"error"})


def test_a_state_folder_of_a_newer_lumos_is_left_alone(folder):
    state = folder / "node-0" / "state"
    state.mkdir()
    newer = {"kind": "node state", "version": 99, "lumos": "0.9.0"}
    (state / "folder.json").write_text(json.dumps(newer))
    content = ask(
        records.DESCRIBE, Order(None, 0, None, ""), node_context(tiny_config(folder), 0)
    ).content
    assert dict(content["error"]) == {"code": "bad-data"}
    assert [path.name for path in state.iterdir()] == ["folder.json"]
