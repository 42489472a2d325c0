"""The ClientApp: it receives a message, lets a :class:`~lumos_core.federation.node.Node` work on
it, and replies.

The table :data:`client_app.duties.DUTIES` says what a node does for a message; this module does
what all messages have in common. Flower starts a fresh process for every message, so the slow
imports (torch, and transformers even more) wait until they are needed, and everything that must
last is in the node's state folder. No exception leaves this module: the server gets a code, the
owner gets the traceback in ``<state>/node.log``, or a sentence where the owner's floor forbids it.
"""

import logging
import os
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client_app import error_codes, ledger
from client_app.duties import DUTIES, Task
from lumos_core import logs
from lumos_core.config import SIMULATION_DATA, NodeConfig, RunConfig
from lumos_core.errors import ConfigError
from lumos_core.federation.owner_floor import REFUSED, BelowFloorError, Floor, Refusal
from lumos_core.federation.owner_pause import check_pause
from lumos_core.flower import records
from lumos_core.runs.folder_version import check_folder
from lumos_core.safe_files import append_bounded, private_folder
from lumos_core.wire import versions

LOG = logs.NODE_LOG
LOG_BYTES = 8 * 1024**2  # a larger one is renamed to node.log.1 and replaces the previous
_KINDS = {message_type: kind for kind, message_type in records.MESSAGE_TYPES.items()}

log = logging.getLogger(__name__)


def answer(message: Message, context: Context) -> Message:
    """The reply to any message, recorded in the ledger; an error code if the work fails."""
    kind = message.metadata.message_type
    state: Path | None = None
    config: RunConfig | None = None
    name, round_ = "", 0
    told: dict[str, str] = {}  # versions: the server's first question is answered in any protocol
    started = time.monotonic()
    logs.configure()  # until the node's own settings are known
    try:
        settings = node_config(context)
        logs.configure(settings.log_format, settings.log_level)
        check_folder(settings.state_folder, "node state")
        state = settings.state_folder
        order = records.decode_order(message.content)
        round_ = order.round
        if kind == records.DESCRIBE:
            name, told = settings.name, versions.own().to_info()
        else:
            versions.check_spoken(order.protocol)
        check_pause(state)
        config = RunConfig.from_flat(context.run_config)
        floor = Floor(_KINDS[kind], config, settings)
        content = _carry_out(kind, Task(context, config, settings, order, floor))
        check_pause(state)  # its owner may have paused it while it worked
        floor.sends(records.payload_bytes(content))
    except Exception as error:
        content = records.encode_error(_note(state, error), name, told)
    reply = Message(content, reply_to=message)
    if state is None:  # its settings cannot be read: the reply holds nothing but a code
        return reply
    try:
        ledger.append(state, reply, round_, config)
    except OSError as error:
        return Message(records.encode_error(_note(state, error), name, told), reply_to=message)
    facts = {
        "kind": kind,
        "round": round_,
        "seconds": round(time.monotonic() - started, 3),
        "cpu_seconds": round(time.process_time(), 3),  # of this process, imports included
        "bytes": records.payload_bytes(reply.content),
    }
    log.info("replied", extra={"facts": facts})
    return reply


def _app() -> ClientApp:
    """An app that answers every kind of message in the table."""
    app = ClientApp()
    register = {"query": app.query, "train": app.train, "evaluate": app.evaluate}
    for kind in DUTIES:
        category, _, action = kind.partition(".")
        register[category](action or "default")(answer)
    return app


app = _app()


def node_config(context: Context) -> NodeConfig:
    """This node's configuration; a virtual node of the simulation engine finds its folder by
    its partition id below ``$LUMOS_SIMULATION_DATA``."""
    flat = dict(context.node_config)
    if "data" not in flat and (folder := os.environ.get(SIMULATION_DATA)):
        name = f"node-{flat.get('partition-id', 0)}"
        # Whoever starts a simulation owns its nodes: the run's model is their own choice.
        llm = str(context.run_config.get("llm", ""))
        flat |= {"data": str(Path(folder) / name), "name": name, "llm": llm}
    return NodeConfig.from_flat(flat)


def _carry_out(kind: str, job: Task) -> RecordDict:
    """The content of the reply; the table says what this kind of message needs."""
    duty = DUTIES[kind]
    job.floor.check_run()
    fits = True
    if duty.data:
        job.open_data(duty.views)
        try:
            job.check_catalog()
        except error_codes.CatalogMismatchError as error:
            if duty.other_catalog == "refused":
                raise
            _note(job.settings.state_folder, error)
            fits = False
        job.check_work()
        if fits:
            job.keep_data()
    content = duty.work(job)
    if duty.keeps_model and job.settings.keep_model:
        _keep(job, trains=kind == records.TRAIN)
    return content


def _keep(job: Task, trains: bool) -> None:
    """Keep the received model for this node's users; if that fails, the round continues anyway."""
    from client_app.received_model import keep

    state = job.settings.state_folder
    try:
        keep(state, job.node, job.order, trains)
    except OSError as error:
        _note(state, error)


def _note(state: Path | None, error: Exception) -> str:
    """Keep the details on this machine; return the code that may be sent to the server."""
    code = error_codes.code_of(error)
    refused = isinstance(error, BelowFloorError)
    details = f"{error}\n" if refused else "".join(traceback.format_exception(error))
    try:
        if state is None:
            raise OSError
        private_folder(state)
        text = f"{datetime.now(UTC).isoformat()} {code}\n{details}\n"
        append_bounded(state / LOG, text.encode(errors="replace"), LOG_BYTES)
        if isinstance(error, BelowFloorError):
            log.warning("%s", error, extra={"facts": {"code": code}})
            Refusal(time=time.time(), sentences=error.sentences).write(state / REFUSED, 0o600)
            return code
        log.error("failed; details in the node's %s", LOG, extra={"facts": {"code": code}})
    except OSError:  # e.g. the disk is full: log the reason if it cannot quote private data
        facts = {"code": code}
        if isinstance(error, ConfigError | BelowFloorError):
            facts["reason"] = str(error)
        log.error("failed; %s cannot be written", LOG, exc_info=error, extra={"facts": facts})
    return code
