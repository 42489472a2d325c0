"""``lumos node ledger``: what left the machine, in plain words and as JSON."""

import json
from pathlib import Path

import pytest
from flower_in_process import identify, node_context, set_message_id, tiny_config, write_nodes
from flwr.app import Message
from typer.testing import CliRunner

from client_app.client import app as client_app
from lumos_core.cli.app import app
from lumos_core.data import Catalog
from lumos_core.errors import DataError
from lumos_core.flower import records
from lumos_core.flower.records import Order
from lumos_core.learning.model import get_params, new_model
from lumos_core.privacy import node_budget
from lumos_core.privacy.budget import epsilon, private_steps
from lumos_core.privacy.ledger_file import FILE, FORGOTTEN, read_lines, write_line
from lumos_core.privacy.node_budget import Account

USERS = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    identify()
    return write_nodes(tmp_path, users=USERS)


def train(folder: Path, round_: int, **changes: object) -> None:
    """A real training of node 0, with its line in the ledger."""
    config = tiny_config(folder, **changes)
    params = get_params(new_model(config, len(Catalog.read(folder / "catalog.tsv"))))
    content = records.encode_order(Order(params, round_, None, ""))
    message = set_message_id(Message(content, 100, records.TRAIN, ttl=60.0), "m1")
    client_app(message, node_context(config, 0))


def shown(folder: Path, *options: str) -> str:
    command = ["node", "ledger", "--data", str(folder / "node-0"), *options]
    result = CliRunner().invoke(app, command)
    if isinstance(result.exception, Exception):
        raise result.exception
    assert result.exit_code == 0
    return result.output


def test_an_empty_ledger_says_so(folder: Path) -> None:
    assert "the ledger is empty: nothing has left this machine" in shown(folder)
    assert not (folder / "node-0" / "state").exists(), "nothing is made by looking"


def test_every_run_says_what_it_got_and_how_that_was_protected(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_budget, "today", lambda: "2026-01-01")
    noisy = {"dp": "user", "dp-noise-multiplier": 4.0}
    for round_ in (1, 2):
        train(folder, round_, **noisy)
    train(folder, 1, **noisy, seed=1)
    train(folder, 1)
    rate, steps = private_steps(USERS, tiny_config(folder, **noisy))
    whole, one = (epsilon(4.0, rate, n * steps, 1e-5) for n in (3, 1))
    output = shown(folder, "-c", "max-total-epsilon=50")
    for text in (
        "rounds 1 to 2\n  sent     2 deltas, 0 other replies; ",
        "dp = user, noise 4 times dp-clip (each user of the node is protected); no secure "
        "aggregation: the server saw each delta",
        f"{one:.3g} (δ = 1e-05) in 1 training, for a user of this node",
        "no differential privacy (dp = none)",
        "no bound: a node cannot count it here",
        "3 runs, 4 replies, ",
        f"ε = {whole:.3g} (δ = 1e-05) in 3 trainings, for a user of this node, by one accountant",
        "1 training of which a node cannot count ε",
        f"limit max-total-epsilon = 50: {50 - whole:.3g} is left",
    ):
        assert text in output, text
    found = json.loads(shown(folder, "--json", "-c", "max-total-epsilon=50"))
    assert found["all"]["epsilon"] == pytest.approx(whole)
    assert found["limits"]["left"] == pytest.approx(50 - whole)
    assert [run["trainings"] for run in found["runs"]] == [2, 1, 1]
    assert found["runs"][1]["epsilon"] == pytest.approx(one)
    lines = list(read_lines(folder / "node-0" / "state"))
    assert found["all"]["bytes"] == sum(line["bytes"] for line in lines)
    assert found["all"]["bytes"] == Account(folder / "node-0" / "state").read().bytes_today
    assert len({run["run"] for run in found["runs"]}) == 3
    spent = Account(folder / "node-0" / "state").read()
    assert {run["run"] for run in found["runs"]} == {run.run for run in spent.runs}


def test_a_public_seed_is_called_what_it_is(folder: Path) -> None:
    train(folder, 1, **{"dp": "user", "dp-noise-seed": 3})
    output = shown(folder)
    assert "its noise is from a public seed, so that it hides nothing" in output
    assert "has set no limit of ε" in output


def test_users_that_were_forgotten(folder: Path) -> None:
    for users in (2, 0):
        facts = {"message": FORGOTTEN, "users": users, "interactions": 9, "records": []}
        write_line(folder / "node-0" / "state", facts)
    output = shown(folder)
    assert "2 users with 9 interactions" in output
    assert "what was made from users who were not in the data any more" in output
    assert json.loads(shown(folder, "--json"))["forgotten"][0]["users"] == 2


def test_damage_is_named(folder: Path) -> None:
    state = folder / "node-0" / "state"
    state.mkdir()
    (state / FILE).write_text("{\n")
    with pytest.raises(DataError, match=r"ledger\.jsonl: line 1"):
        shown(folder)
    (state / FILE).unlink()
    Account(state).path.write_text("{")
    with pytest.raises(DataError, match=r"spent\.json: is not JSON"):
        shown(folder)
