"""What comes from histories is for the node's own user, whatever part of a node made it first."""

import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flower_in_process import identify, node_context, set_message_id, tiny_config, write_nodes
from flwr.app import Message

from client_app.client import _note, app
from client_app.open_node import open_node
from client_app.received_model import keep
from lumos_core.config import NodeConfig
from lumos_core.data import Catalog
from lumos_core.data.node_cache import read_kept_node
from lumos_core.deployment import checks
from lumos_core.errors import DataError
from lumos_core.federation.error_feedback import Residuals
from lumos_core.flower import records
from lumos_core.flower.records import Order
from lumos_core.learning.model import get_params, new_model
from lumos_core.privacy.noise import node_key
from lumos_core.privacy.secure_aggregation.session_store import FileStore
from lumos_core.views.view_store import ViewStore

pytestmark = pytest.mark.usefixtures("usual_umask")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _keep_model(state: Path) -> None:
    folder = write_nodes(state.parent / "prepared")
    config = tiny_config(folder)
    node = open_node(config, NodeConfig(data=str(folder / "node-0"), state=str(state / "other")))
    params = get_params(new_model(config, len(node.catalog)))
    keep(state, node, Order(params, 2, None, ""), trains=True)


def _hold_sessions(state: Path) -> None:
    with FileStore(state).locked():
        pass


def _read_histories(state: Path) -> None:
    read_kept_node(write_nodes(state.parent / "prepared") / "node-0", state)


WAYS: dict[str, Callable[[Path], object]] = {
    "check": lambda state: list(checks.state(state)),
    "views": lambda state: ViewStore(state / "views.sqlite").close(),
    "failure": lambda state: _note(state, DataError("secret title")),
    "model": _keep_model,
    "histories": _read_histories,
    "sessions": _hold_sessions,
    "noise": node_key,
}


@pytest.mark.parametrize("make", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("there", [False, True])
def test_the_state_folder_is_private_however_it_comes_into_being(
    tmp_path: Path, make: Callable[[Path], object], there: bool
) -> None:
    state = tmp_path / "data" / "state"
    state.parent.mkdir()
    if there and make is not node_key:  # a key in a folder that is there is private by itself
        state.mkdir(mode=0o755)
    make(state)
    assert mode(state) == 0o700
    assert mode(state.parent) == 0o755


def test_what_rounds_leave_in_the_state_folder(tmp_path: Path) -> None:
    identify()
    folder = write_nodes(tmp_path)
    config = tiny_config(
        folder, method="lumos", views="tfidf", **{"delta-codec": "int8", "error-feedback": True}
    )
    params = get_params(new_model(config, len(Catalog.read(folder / "catalog.tsv"))))
    for fingerprint in ("", "another"):  # the second fails, so that there is something to log
        order = Order(params, 1, None, fingerprint)
        message = Message(records.encode_order(order), 100, records.TRAIN, ttl=60.0)
        app(set_message_id(message, "m1"), node_context(config, 0))
    state = folder / "node-0" / "state"
    assert mode(state) == 0o700
    app(set_message_id(message, "m1"), node_context(config, 0, **{"allowed-dp": "user"}))
    names = (
        "views.sqlite", "ledger.jsonl", "node.log", "histories.npz", "spent.json", "refused.json",
    )  # fmt: skip
    debts = list(state.glob("residuals/*/*.safetensors"))
    assert len(debts) == 1
    assert {p.name: mode(p) for p in (*(state / n for n in names), *debts)} == {
        **dict.fromkeys(names, 0o600),
        debts[0].name: 0o600,
    }


def test_views_that_others_could_read_are_kept_in_a_folder_that_they_cannot_enter(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    (state / "views.sqlite").touch(mode=0o644)
    with ViewStore(state / "views.sqlite") as store:
        assert len(store) == 0
    assert mode(state) == 0o700


def test_debts_have_a_folder_of_their_own(tmp_path: Path) -> None:
    Residuals(tmp_path / "residuals").keep(1, {"a": np.ones(2, np.float32)})
    assert mode(tmp_path / "residuals") == 0o700
    assert mode(tmp_path / "residuals" / "1.safetensors") == 0o600
