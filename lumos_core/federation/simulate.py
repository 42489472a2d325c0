"""A whole federation in this process: the round loop and its nodes, without a network.

Nodes, aggregation and checks are the same as in a deployment; nodes work one after the other, or,
where each user is a client, all clients of a round together. It is for experiments, for notebooks,
and for trying something out.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.layout import shared_state
from lumos_core.data.sequences import Sequences
from lumos_core.errors import ConfigError, DataError
from lumos_core.federation.error_feedback import leaves_residuals
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.one_user_clients import check_one_user_clients
from lumos_core.federation.population import Population
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.federation.simulated_speeds import SimulatedSpeeds
from lumos_core.federation.warm_start import Start
from lumos_core.learning.title_start import initial_params
from lumos_core.privacy.secure_aggregation.primitives import Primitives
from lumos_core.runs.history import OnEvent
from lumos_core.views.build import BuildProgress
from lumos_core.views.source import view_source
from lumos_core.views.view import ViewSource, no_views
from lumos_core.wire.messages import Transport

ViewsOf = Callable[[str], ViewSource]
"""Name of a node → where its views come from."""
OnNode = Callable[[str, BuildProgress], None]
Clients = Literal["nodes", "users"]
"""What a client of the federation is: a node with its users, or a single user."""
_START_SECONDS = 1.0  # all nodes are here: nobody comes later
POPULATION = "users"
"""The name under which the views of all one-user clients are asked for."""


def simulate(
    config: RunConfig,
    catalog: Catalog,
    users: Mapping[str, Sequences] | Sequence[Sequences],
    *,
    clients: Clients = "nodes",
    state: Path | None = None,
    views_of: ViewsOf | None = None,
    run_dir: Path | None = None,
    resume: bool = False,
    on_event: OnEvent | None = None,
    primitives: Primitives | None = None,
    seconds: Mapping[str, float] | None = None,
    start: Path | str | None = None,
) -> FederationResult:
    """Run a federation whose nodes all live in this process.

    Args:
        config: of the run; ``min-nodes`` and ``min-replies`` are lowered to the number of nodes.
        catalog: the public catalog.
        users: each node's users, by its name or in order; a user needs three interactions.
        clients: "users" makes a client of each user, wherever they are, in the order given, and
            trains the clients of a round together, with torch's current number of threads; see
            :mod:`~lumos_core.federation.population`.
        state: folder in which nodes keep their views, one folder each, so that a second run does
            not write them again; a temporary folder by default. One-user clients share a folder.
            Nodes also keep there what a deployed node keeps: the key of their noise and, with
            ``error-feedback``, what they have not sent yet.
        views_of: where views come from, if not from the configured writer. One-user clients have
            one source, that of the name "users".
        run_dir: where to keep checkpoints and history; nothing is kept if not given.
        resume: continue the run in ``run_dir`` if there is one. With ``error-feedback`` that
            needs the ``state`` that the run began with.
        on_event: called with every event of the history.
        primitives: the cryptography of ``secure-aggregation``.
        seconds: by node, how many simulated seconds a training takes, 1 for all others; so replies
            arrive in the order of a simulated clock, see
            :mod:`~lumos_core.federation.simulated_speeds`. Not with one-user clients.
        start: run folder, exported folder or model file with the model to start from, in the place
            of a new one.

    Returns:
        The result: parameters of the best round, its metrics on validation and test targets.

    Raises:
        ConfigError: no node is given, or ``run_dir`` holds another run, or one-user clients cannot
            train as the configuration says, or the model to start from has another shape, or a run
            to resume has not kept what its nodes have not sent yet.
        DataError: a node has no users.
        ModelError: the language model cannot be found, or there is no usable model to start from.

    Three shops, 24 items, two rounds without views:

    >>> import numpy as np
    >>> from lumos_core import Catalog, RunConfig, simulate
    >>> from lumos_core.data import Sequences
    >>> catalog = Catalog(tuple(f"i{n}" for n in range(24)), tuple(f"toy {n}" for n in range(24)))
    >>> rng = np.random.default_rng(0)
    >>> shops = [
    ...     Sequences.from_lists([((start + np.arange(8)) % 24 + 1).tolist() for start in starts])
    ...     for starts in rng.integers(0, 24, (3, 20))
    ... ]
    >>> config = RunConfig(method="fedavg", rounds=2, dim=16, semantic_start="none")
    >>> result = simulate(config, catalog, shops)
    >>> result.outcome, result.rounds, sorted(result.test)[:3]
    ('completed', 2, ['hr@10', 'hr@20', 'hr@5'])
    """
    shops = dict(users) if isinstance(users, Mapping) else _named(users)
    if not shops:
        raise ConfigError("a federation needs at least one node, found none")
    for name, sequences in shops.items():
        if not len(sequences):
            raise DataError(f"node {name!r}: has no users; leave it out")
    if resume:
        check_resumable(config, clients, state)
    begun = None if start is None else Start.read(Path(start), config, catalog)
    config = begun.applied(config) if begun else config
    everyone = Sequences.concat(list(shops.values())) if clients == "users" else None
    count = len(shops) if everyone is None else len(everyone)
    config = config.replace(
        min_nodes=min(config.min_nodes, count), min_replies=min(config.min_replies, count),
        start_timeout=min(config.start_timeout, _START_SECONDS),
    )  # fmt: skip
    if everyone is not None:
        check_one_user_clients(config)
        if seconds:
            raise ConfigError("clients with one user each train together: none has its own speed")
        # their views are written at once, when the first of them needs one
        config = config.replace(view_timeout=0.0)
    with ExitStack() as stack:
        if views_of is None:
            folder = state or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            views_of = _state_views(config, catalog, folder)
        if everyone is None:
            stack.enter_context(_one_thread())
            kept = {name: state / name if state else None for name in shops}
            nodes = [
                Node(name, catalog, sequences, config, views_of(name), state=kept[name])
                for name, sequences in shops.items()
            ]
            transport: Transport = InProcessTransport(nodes, primitives)
            if seconds is not None:
                transport = SimulatedSpeeds(transport, seconds)
        else:
            transport = Population(catalog, everyone, config, views_of(POPULATION))
        return run_federation(
            config,
            transport,
            catalog.fingerprint,
            begun.params if begun else initial_params(config, catalog),
            run_dir=run_dir,
            on_event=on_event,
            resume=resume,
            primitives=primitives,
            known_as=catalog.is_known_as,
            started=begun.facts.event() if begun else None,
        )


def check_resumable(config: RunConfig, clients: Clients, state: Path | None) -> None:
    """Check that a run can be continued as if it had never stopped.

    Args:
        config, clients, state: see :func:`simulate`.

    Raises:
        ConfigError: what its nodes have not sent yet is lost when this process ends.
    """
    if not leaves_residuals(config) or (state is not None and clients == "nodes"):
        return
    keys = f"error-feedback = true and delta-codec = {config.delta_codec}"
    if clients == "users":
        raise ConfigError(
            f"{keys}: clients with one user each keep what they have not sent yet in memory, so "
            "their run cannot be resumed; begin another one, without resume or with "
            "error-feedback = false"
        )
    raise ConfigError(
        f"{keys}: a run is resumed with what its nodes have not sent yet; give its folder as "
        "`state`, from the beginning of the run on, or begin another run with "
        "error-feedback = false"
    )


def prepared_views(
    config: RunConfig,
    catalog: Catalog,
    data: Path,
    on_progress: OnNode | None = None,
    *,
    shared: bool = False,
) -> ViewsOf:
    """Views from the configured writer, kept where the nodes of a prepared folder keep theirs.

    Args:
        config: of the run.
        catalog: the public catalog.
        data: the prepared folder; the name of a node is that of its folder there.
        on_progress: called with the name of a node and how far its views are.
        shared: keep the views of all nodes in one store of the prepared folder: for experiments
            that deal its users out anew, so that no user's views are written twice.
    """
    state = str(shared_state(data)) if shared else ""

    def node(name: str) -> NodeConfig:
        return NodeConfig(data=str(data / name), state=state)

    return _written(config, catalog, node, on_progress)


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch with one thread, as nodes have by default: results are then the same on every machine,
    and batches are too small for more threads to pay off."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _named(users: Sequence[Sequences]) -> dict[str, Sequences]:
    return {f"node-{n}": sequences for n, sequences in enumerate(users)}


def _state_views(config: RunConfig, catalog: Catalog, state: Path) -> ViewsOf:
    """Views from the configured writer, kept in a folder per node."""

    def node(name: str) -> NodeConfig:
        return NodeConfig(data=str(state / name), state=str(state / name), name=name)

    return _written(config, catalog, node)


def _written(
    config: RunConfig,
    catalog: Catalog,
    node_of: Callable[[str], NodeConfig],
    on_progress: OnNode | None = None,
) -> ViewsOf:
    def views_of(name: str) -> ViewSource:
        if not config.has_views:
            return no_views
        told = partial(on_progress, name) if on_progress else None
        return view_source(config, node_of(name), catalog, on_progress=told)

    return views_of
