"""What a node answers to ``prepare``: two flags, and no more than its modes of privacy allow."""

import math
import time
from typing import Any

import pytest
from flower_in_process import identify, node_context, set_message_id, tiny_config, write_nodes
from flwr.app import Message, MetricRecord

from client_app import duties, open_node
from client_app.client import app
from lumos_core.flower import records
from lumos_core.flower.records import Order
from lumos_core.views.meter import FILE, ViewProgress
from lumos_core.wire.reply_checks import PREPARATION_METRICS, check_preparation


@pytest.fixture
def folder(tmp_path):
    identify()
    return write_nodes(tmp_path)


def prepare(folder, seconds=30.0, node=None, **keys: Any):
    config = tiny_config(folder, **{"method": "lumos", "views": "tfidf", **keys})
    message = Message(
        records.encode_order(Order(None, 0, None, "", seconds=seconds)), 100, records.PREPARE,
        ttl=60.0,
    )  # fmt: skip
    context = node_context(config, 0, **(node or {}))
    return app(set_message_id(message, "m1"), context).content


def told(content):
    assert {name: type(record) for name, record in content.items()} == {"metrics": MetricRecord}
    metrics = records.decode_metrics(content)
    check_preparation(metrics)
    assert set(metrics) == PREPARATION_METRICS
    return metrics


def test_all_views_are_written_and_it_says_so(folder):
    assert told(prepare(folder)) == {"complete": 1, "done": 1, "percent": 100, "seconds-left": 0.0}
    progress = ViewProgress.of_node(folder / "node-0" / "state")
    assert progress is not None
    assert (progress.users_done, progress.users) == (6, 6)


def test_a_share_of_the_users_is_done_but_not_complete(folder):
    found = told(prepare(folder, **{"view-share": 0.5}))
    assert (found["complete"], found["done"]) == (0, 1)


@pytest.mark.parametrize(
    "keys",
    [
        {"secure-aggregation": True, "min-nodes": 3, "min-replies": 3},
        {"dp": "user", "dp-noise-seed": 1},
    ],
)
def test_where_counts_are_kept_back_there_are_only_flags(folder, keys):
    assert told(prepare(folder, **keys)) == {
        "complete": 1, "done": 1, "percent": 0, "seconds-left": 0.0
    }  # fmt: skip


def test_the_owner_s_limit_ends_the_work_for_good(folder, monkeypatch):
    state = folder / "node-0" / "state"
    config = tiny_config(folder, **{"method": "lumos", "views": "tfidf"})
    from lumos_core.runs.resume import run_key

    state.mkdir()
    spent = ViewProgress(spent=50.0, run=run_key(config, ""), time=time.time())
    (state / FILE).write_text(spent.model_dump_json())
    found = told(prepare(folder, node={"prepare-seconds": 40.0}))
    assert (found["complete"], found["done"], found["percent"]) == (0, 1, 0), "nothing was written"
    found = told(prepare(folder, node={"prepare-seconds": 4000.0}))
    assert (found["complete"], found["done"]) == (1, 1)


@pytest.mark.parametrize(("asked", "allowed"), [(10.0, 10.0), (1e9, duties.MAX_PIECE_SECONDS)])
def test_no_server_keeps_a_node_at_work_for_long(folder, monkeypatch, asked, allowed):
    seen = []
    whole = open_node.open_node

    def remember(config, settings, meter=None, seconds=None, data=None):
        seen.append(seconds)
        return whole(config, settings, meter, seconds, data)

    monkeypatch.setattr(open_node, "open_node", remember)
    told(prepare(folder, seconds=asked))
    assert seen == [allowed]


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_seconds_that_are_none_are_a_bad_instruction(folder, seconds):
    assert records.decode_error(prepare(folder, seconds=seconds)) == ("bad-instruction", "")
