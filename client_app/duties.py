"""What a node does for each kind of message: one table, `DUTIES`.

A node never sends a message first, it only answers. Flower starts a fresh process for every
message, so nothing stays in memory: what a node has to remember is in its state folder. In a run
the server first asks every node to `describe` itself and refuses nodes with another catalog or
model. If the method has views, it then asks the nodes to `prepare` theirs, piece by piece, until
they have written all that they will; a node that lacks the run's catalog artefact is given it
before, piece by piece as well (`artefact`). In each round it asks some to `train` and, when an
evaluation is due, the others to `evaluate`; at the end all `evaluate` the best model on the test
targets. A run without test targets ends with the same message, which then brings the result to
keep and asks for nothing.

The node does not enforce this order. A restarted server begins again with `describe`, and a node
that joins late is asked to train without having prepared, so every message must be possible after
every other one. Only the steps of secure aggregation have an order that the node enforces, and a
table of their own.

Most messages need the node's data: opening them imports torch and reads the histories and the
catalog. A message from a server with another catalog is refused: the same row would mean another
item, and the work would be worthless. `describe` is the exception: the node only records the
difference in its own log, because the server cannot name a refused node before it knows the name.
The steps of secure aggregation before and after the upload need no data and are answered at once,
and so are most pieces of the artefact.

Before anything else the node compares the message with its owner's floor, the table of
`lumos_core.federation.owner_floor`, and before it trains it writes down what that costs.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from flwr.app import Context, RecordDict

from client_app.error_codes import CatalogMismatchError
from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog, differing_versions, short_fingerprint
from lumos_core.data.layout import PREPARE_NODE, node_files
from lumos_core.errors import ReplyError
from lumos_core.federation.owner_floor import Floor
from lumos_core.flower import records
from lumos_core.flower.records import Order

if TYPE_CHECKING:  # they import torch, which a step of secure aggregation does not need
    from client_app.open_node import RunData
    from lumos_core.federation.node import Node
    from lumos_core.learning.parameters import Params
    from lumos_core.views.meter import Meter
    from lumos_core.wire.messages import Metrics

MAX_PIECE_SECONDS = (
    600.0  # limit of work on views for one message, even if the server asks for more
)

log = logging.getLogger(__name__)


@dataclass
class Task:
    """The work for one message, and what it needs."""

    context: Context
    config: RunConfig
    settings: NodeConfig
    order: Order
    floor: Floor
    meter: "Meter" = field(init=False)  # these three exist only if the duty needs data
    data: "RunData" = field(init=False)
    node: "Node" = field(init=False)

    @property
    def params(self) -> "Params":
        """The received model."""
        if self.order.params is None:
            raise ReplyError("the instruction brought no model")
        return self.order.params

    def open_data(self, views: Callable[["Task"], float] | None) -> None:
        """Open the node's data.

        Args:
            views: says how many seconds the node may take to write missing views.
        """
        from client_app.open_node import open_node, read_data
        from lumos_core.runs.resume import run_key
        from lumos_core.views.meter import Meter

        self.meter = Meter(self.settings.state_folder, run_key(self.config, self.order.catalog))
        seconds = None if views is None else views(self)
        self.data = read_data(self.config, self.settings, self.order.run, self.order.catalog)
        self.node = open_node(self.config, self.settings, self.meter, seconds, self.data)

    def keep_data(self) -> None:
        """Let all later messages of the run find the data that this one has found."""
        from client_app.open_node import keep_data

        try:
            keep_data(self.config, self.settings, self.order.run, self.data)
        except OSError as error:
            # the node's log says it: rows that are ingested now would enter in this run
            log.warning("the data of this run could not be kept (%s)", type(error).__name__)

    def check_work(self) -> None:
        """Raises BelowFloorError if this node's owner does not allow the work."""
        from lumos_core.runs.resume import run_key

        # Not with the catalog's fingerprint, which a server may send or not.
        self.floor.check_work(len(self.node.split.sequences), run_key(self.config, ""))

    def train(self) -> "tuple[Params, Metrics]":
        """Train, after what that costs has been written down."""
        params, order = self.params, self.order
        with self.floor.training():
            return self.node.train(params, order.round, order.evaluate)

    def check_catalog(self) -> None:
        """Raises CatalogMismatchError if the server has another catalog."""
        self._check_same(self.node.catalog)

    def catalog(self) -> Catalog:
        """The catalog alone, for a duty that needs none of the node's other data. Raises
        CatalogMismatchError if the server has another one."""
        found = Catalog.read(node_files(Path(self.settings.data)).catalog)
        self._check_same(found)
        return found

    def _check_same(self, catalog: Catalog) -> None:
        found, expected = catalog.fingerprint, self.order.catalog
        if expected not in ("", found):
            raise CatalogMismatchError(
                f"this node's catalog.tsv has fingerprint {short_fingerprint(found)}…, the run's "
                f"{short_fingerprint(expected)}…; give this node the run's catalog.tsv and prepare "
                f"its data again, into mine/node-0: {PREPARE_NODE}"
                f"{differing_versions(found, expected)}"
            )


def view_seconds(job: Task) -> float:
    """At most `view-seconds` in a round."""
    return job.settings.view_seconds


def piece_seconds(job: Task) -> float:
    """As long as the server asks for, but at most 600 s, and at most `prepare-seconds` over all
    pieces."""
    left = max(_prepare_limit(job) - job.meter.spent, 0.0)
    return min(job.order.seconds, MAX_PIECE_SECONDS, left)


def describe(job: Task) -> RecordDict:
    """Report the node's name, its number of users, its tags if it has any, fingerprints of catalog
    and model, and the versions of LUMOS, protocol, Flower and Python."""
    users = job.node.split.sequences
    if users.left_out:  # for the owner; the count does not leave this machine
        log.warning("data: %s", users.users_text)
    tags = {"tags": job.settings.tags} if job.settings.tags else {}
    return records.encode_describe({**job.node.describe(), **tags})


def artefact(job: Task) -> RecordDict:
    """Take a piece of the run's catalog artefact, if this node lacks it, has the same model and
    versions, and its owner allows it; report whether another piece is wanted, and which."""
    from lumos_core.views.titles.artefact_fetch import Fetch

    if job.order.offered is None:
        raise ReplyError("the instruction offered no artefact")
    wanted = Fetch(job.config, job.settings, job.order.offered, job.catalog).answer(job.order.piece)
    return records.encode_metrics({"wanted": int(wanted.wanted), "piece": wanted.piece})


def prepare(job: Task) -> RecordDict:
    """Write missing views; report whether all are there, and whether the node will write more."""
    from lumos_core.wire.reply_checks import preparation

    meter = job.meter
    complete = job.node.prepare()
    meter.close()
    done = complete or not meter.missing or meter.spent >= _prepare_limit(job)
    far = (0, 0.0) if job.config.keeps_counts_back else meter.for_server()
    return records.encode_metrics(preparation(complete, done, *far))


def train(job: Task) -> RecordDict:
    """Train on the local histories, and evaluate the received model if asked to. The reply holds a
    delta and sums, or with secure aggregation one masked vector."""
    from client_app import secure_steps

    order, settings = job.order, job.settings
    if order.secure is not None:
        part = secure_steps.participant(job.context, job.config, settings, settings.state_folder)
        return records.encode_upload(secure_steps.upload(part, order, job.train))
    secure_steps.check_plain_allowed(job.config)
    return records.encode_train(*job.train())


def evaluate(job: Task) -> RecordDict:
    """Evaluate the received model; report sums and counts. On the test of a run that has none,
    report nothing."""
    params, split = job.params, job.order.evaluate
    if split is None:
        raise ReplyError("an evaluate instruction must name its split")
    return records.encode_metrics(job.node.evaluate(params, split, job.order.title_weight))


def secure_step(job: Task) -> RecordDict:
    """Take a step of secure aggregation before or after the upload."""
    from client_app import secure_steps

    settings = job.settings
    part = secure_steps.participant(job.context, job.config, settings, settings.state_folder)
    return records.encode_secure(part.answer(job.order.round, job.order.secure or {}))


class Duty(NamedTuple):
    """What one kind of message needs.

    Attributes:
        work: does the work and returns the content of the reply.
        data: whether the node's data are opened for it.
        other_catalog: what happens if the server's catalog is not that of the node's data.
        views: how many seconds the node may take for missing views; None if no views are needed.
        keeps_model: whether a node with ``keep-model`` keeps the model that came with the message.
    """

    work: Callable[[Task], RecordDict]
    data: bool = True
    other_catalog: Literal["refused", "noted"] = "refused"
    views: Callable[[Task], float] | None = None
    keeps_model: bool = False


DUTIES: Mapping[str, Duty] = {
    records.DESCRIBE: Duty(describe, other_catalog="noted"),
    records.ARTEFACT: Duty(artefact, data=False),
    records.PREPARE: Duty(prepare, views=piece_seconds),
    records.TRAIN: Duty(train, views=view_seconds, keeps_model=True),
    records.EVALUATE: Duty(evaluate, keeps_model=True),
    records.SECURE: Duty(secure_step, data=False),
}
"""Flower message type → what the node does for it."""


def _prepare_limit(job: Task) -> float:
    return job.settings.prepare_seconds or math.inf
