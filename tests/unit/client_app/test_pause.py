"""A paused node sends nothing but that it is paused, and takes part again after it is resumed."""

from pathlib import Path

import pytest
from flower_in_process import (
    InProcessGrid,
    identify,
    node_context,
    set_message_id,
    tiny_config,
    write_nodes,
)
from flwr.app import Message
from typer.testing import CliRunner

from client_app import duties
from client_app.client import app
from lumos_core.cli.app import app as cli
from lumos_core.data import Catalog
from lumos_core.federation.owner_pause import PAUSED, pause, resume
from lumos_core.federation.round_loop import run_federation
from lumos_core.flower import records
from lumos_core.flower.cryptography import FLOWER
from lumos_core.flower.records import Order
from lumos_core.learning.model import get_params, new_model
from lumos_core.learning.title_start import initial_params
from lumos_core.privacy.ledger_file import read_lines
from lumos_core.privacy.node_budget import Account
from lumos_core.runs.advice import advice_for
from lumos_core.wire import versions
from server_app.grid_transport import GridTransport

KINDS = [records.DESCRIBE, records.PREPARE, records.TRAIN, records.EVALUATE, records.SECURE]


@pytest.fixture
def folder(tmp_path):
    identify()
    return write_nodes(tmp_path)


def ask(folder, kind=records.TRAIN):
    """The reply of node-0 to a message."""
    config = tiny_config(folder)
    params = get_params(new_model(config, len(Catalog.read(Path(config.catalog)))))
    order = Order(None if kind == records.SECURE else params, 1, None, "")
    message = set_message_id(Message(records.encode_order(order), 100, kind, ttl=60.0), "m1")
    return app(message, node_context(config, 0)).content


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_done_and_only_the_code_is_sent(folder, monkeypatch, kind):
    monkeypatch.setattr(duties.Task, "open_data", lambda *_: pytest.fail("opened"))
    state = folder / "node-0" / "state"
    pause(state)
    content = ask(folder, kind)
    assert list(content) == ["error"]
    told = {"name": "node-0", **versions.own().to_info()} if kind == records.DESCRIBE else {}
    assert dict(content["error"]) == {"code": "paused", **told}
    assert Account(state).read().trainings == 0
    lines = [line for line in read_lines(state) if line["message"] == kind]
    assert [r["record"] for line in lines for r in line["records"]] == ["error"]


def test_after_it_is_resumed_it_trains(folder):
    state = folder / "node-0" / "state"
    pause(state)
    assert "error" in ask(folder)
    resume(state)
    assert "delta" in ask(folder)


def test_a_federation_goes_on_without_it_and_says_why(folder, capfd):
    pause(folder / "node-0" / "state")
    config = tiny_config(folder, **{"min-replies": 1, "min-nodes": 1, "start-timeout": 1.0})
    catalog = Catalog.read(folder / "catalog.tsv")
    grid = InProcessGrid(app, {100 + n: node_context(config, n) for n in range(2)})
    transport = GridTransport(grid, catalog.fingerprint, poll=0.01)
    params = initial_params(config, catalog)
    result = run_federation(config, transport, catalog.fingerprint, params, primitives=FLOWER)
    assert [e["ok"] for e in result.events if e["event"] == "round"] == [["node-1"], ["node-1"]]
    assert "node node-0: refused: it answers with error 'paused'" in capfd.readouterr().err


def test_the_commands(folder):
    def said(*arguments):
        found = CliRunner().invoke(cli, ["node", *arguments, "--data", str(folder / "node-0")])
        assert found.exit_code == 0, found.output
        return found.output.strip()

    assert said("pause") == "paused"
    assert said("pause") == "it was paused already"
    assert (folder / "node-0" / "state" / PAUSED).stat().st_mode & 0o777 == 0o600
    assert said("resume") == "resumed; the server asks this node again by itself"
    assert said("resume") == "not paused"


def test_the_server_s_operator_is_told_what_it_means():
    assert "owner has paused it" in advice_for("error 'paused'")
