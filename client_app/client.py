"""The ClientApp: a message in, a :class:`~lumos_core.federation.node.Node` at work, a reply out.

Flower starts a fresh process for every message, so the heavy imports (torch, and transformers
beyond it) wait until they are needed, and everything that lasts lies in the node's state folder.
No exception leaves this module: the server gets a code, the owner gets the traceback in
``<state>/node.log``.
"""

import logging
import math
import os
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client_app import error_codes, ledger
from lumos_core import logs
from lumos_core.config import SIMULATION_DATA, NodeConfig, RunConfig
from lumos_core.data.catalog import differing_versions, short_fingerprint
from lumos_core.data.layout import PREPARE_NODE
from lumos_core.errors import ConfigError, ReplyError
from lumos_core.flower import records
from lumos_core.flower.records import Order
from lumos_core.safe_files import owner_only, private_folder

if TYPE_CHECKING:
    from lumos_core.federation.node import Node
    from lumos_core.learning.parameters import Params
    from lumos_core.views.meter import Meter

MAX_PIECE_SECONDS = 600.0  # of work on views for one message, whatever the server asks for
LOG = "node.log"

log = logging.getLogger(__name__)

app = ClientApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """The node's name, count of users and fingerprints: what has to match before training."""

    def work(node: "Node", order: Order) -> RecordDict:
        users = node.split.sequences
        if users.left_out:  # for the owner; the count does not leave this machine
            log.warning("data: %s", users.users_text)
        return records.encode_describe(node.describe())

    return _answer(message, context, work)


@app.query("prepare")
def prepare(message: Message, context: Context) -> Message:
    """Write missing views before the first round, for a bounded time; the server asks again until
    this node has no more to write."""

    def work(config: RunConfig, settings: NodeConfig, order: Order) -> RecordDict:
        from lumos_core.wire.reply_checks import preparation

        meter = _meter(config, settings, order)
        limit = settings.prepare_seconds or math.inf
        seconds = min(order.seconds, MAX_PIECE_SECONDS, max(limit - meter.spent, 0.0))
        node = _node(config, settings, meter, seconds)
        _check_catalog(node, order, None)
        complete = node.prepare()
        meter.close()
        done = complete or not meter.missing or meter.spent >= limit
        far = (0, 0.0) if config.keeps_counts_back else meter.for_server()
        return records.encode_metrics(preparation(complete, done, *far))

    return _reply(message, context, work)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on the local histories; evaluate the received model in the same go if asked to."""

    def work(node: "Node", order: Order) -> RecordDict:
        from client_app import secure_steps

        settings = node_config(context)
        if order.secure is not None:
            part = secure_steps.participant(context, node.config, settings, settings.state_folder)
            return records.encode_upload(secure_steps.upload(part, node, order))
        secure_steps.check_plain_allowed(node.config, settings)
        return records.encode_train(*node.train(_params(order), order.round, order.evaluate))

    return _answer(message, context, work)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the received model; sums and counts go back."""

    def work(node: "Node", order: Order) -> RecordDict:
        params, split = _params(order), order.evaluate
        if split is None:
            raise ReplyError("an evaluate instruction must name its split")
        return records.encode_metrics(node.evaluate(params, split))

    return _answer(message, context, work)


@app.query("secagg")
def secure_step(message: Message, context: Context) -> Message:
    """A step of secure aggregation before or after the upload; needs no data and no torch."""

    def work(config: RunConfig, settings: NodeConfig, order: Order) -> RecordDict:
        from client_app import secure_steps

        part = secure_steps.participant(context, config, settings, settings.state_folder)
        return records.encode_secure(part.answer(order.round, order.secure or {}))

    return _reply(message, context, work)


def node_config(context: Context) -> NodeConfig:
    """This node's configuration; a virtual node of the simulation engine finds its folder by
    its partition id below ``$LUMOS_SIMULATION_DATA``."""
    flat = dict(context.node_config)
    if "data" not in flat and (folder := os.environ.get(SIMULATION_DATA)):
        name = f"node-{flat.get('partition-id', 0)}"
        flat |= {"data": str(Path(folder) / name), "name": name}
    return NodeConfig.from_flat(flat)


def _answer(
    message: Message, context: Context, work: Callable[["Node", Order], RecordDict]
) -> Message:
    """A reply for which the node's data are needed."""
    kind = message.metadata.message_type

    def with_node(config: RunConfig, settings: NodeConfig, order: Order) -> RecordDict:
        state = settings.state_folder
        node = _node(config, settings, _meter(config, settings, order))
        _check_catalog(node, order, state if kind == records.DESCRIBE else None)
        content = work(node, order)
        if settings.keep_model:
            _keep(state, node, order, kind == records.TRAIN)
        return content

    return _reply(message, context, with_node)


def _reply(
    message: Message,
    context: Context,
    work: Callable[[RunConfig, NodeConfig, Order], RecordDict],
) -> Message:
    """The reply, noted in the ledger; a code where ``work`` fails."""
    state: Path | None = None
    name, round_ = "", 0
    started = time.monotonic()
    logs.configure()  # until the node's own settings are known
    try:
        settings = node_config(context)
        logs.configure(settings.log_format, settings.log_level)
        state = settings.state_folder
        order = records.decode_order(message.content)
        round_ = order.round
        name = settings.name if message.metadata.message_type == records.DESCRIBE else ""
        content = work(RunConfig.from_flat(context.run_config), settings, order)
    except Exception as error:
        content = records.encode_error(_note(state, error), name)
    reply = Message(content, reply_to=message)
    if state is None:  # nothing is known about this node, so nothing but a code is in the reply
        return reply
    try:
        ledger.append(state, reply, round_)
    except OSError as error:
        return Message(records.encode_error(_note(state, error), name), reply_to=message)
    facts = {
        "kind": message.metadata.message_type,
        "round": round_,
        "seconds": round(time.monotonic() - started, 3),
        "cpu_seconds": round(time.process_time(), 3),  # of this process, its imports too
        "bytes": records.payload_bytes(reply.content),
    }
    log.info("replied", extra={"facts": facts})
    return reply


def _node(
    config: RunConfig, settings: NodeConfig, meter: "Meter", seconds: float | None = None
) -> "Node":
    from client_app.open_node import open_node

    return open_node(config, settings, meter, seconds)


def _meter(config: RunConfig, settings: NodeConfig, order: Order) -> "Meter":
    from lumos_core.runs.resume import run_key
    from lumos_core.views.meter import Meter

    return Meter(settings.state_folder, run_key(config, order.catalog))


def _keep(state: Path, node: "Node", order: Order, trains: bool) -> None:
    """Keep the received model for this node's users; without it the round goes on all the same."""
    from client_app.received_model import keep

    try:
        keep(state, node, order, trains)
    except OSError as error:
        _note(state, error)


def _check_catalog(node: "Node", order: Order, only_note: Path | None) -> None:
    """Refuse to work with another catalog; only note it if the server merely asks who this is,
    since it cannot refuse this node by name before it knows the name."""
    found = node.catalog.fingerprint
    if order.catalog in ("", found):
        return
    error = error_codes.CatalogMismatchError(
        f"this node's catalog.tsv has fingerprint {short_fingerprint(found)}…, the run's "
        f"{short_fingerprint(order.catalog)}…; give this node the run's catalog.tsv and prepare "
        f"its data again, into mine/node-0: {PREPARE_NODE}"
        f"{differing_versions(found, order.catalog)}"
    )
    if only_note is None:
        raise error
    _note(only_note, error)


def _params(order: Order) -> "Params":
    if order.params is None:
        raise ReplyError("the instruction brought no model")
    return order.params


def _note(state: Path | None, error: Exception) -> str:
    """Keep the details on this machine; return the code that may travel."""
    code = error_codes.code_of(error)
    details = "".join(traceback.format_exception(error))
    try:
        if state is None:
            raise OSError
        private_folder(state)
        with open(state / LOG, "a", encoding="utf-8", opener=owner_only) as file:
            file.write(f"{datetime.now(UTC).isoformat()} {code}\n{details}\n")
        log.error("failed; details in the node's %s", LOG, extra={"facts": {"code": code}})
    except OSError:  # a full disk must not hide the reason; but other texts may quote private data
        facts = {"code": code}
        if isinstance(error, ConfigError):
            facts["reason"] = str(error)
        log.error("failed; %s cannot be written", LOG, exc_info=error, extra={"facts": facts})
    return code
