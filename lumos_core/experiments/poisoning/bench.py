"""One run of the bench: clean rounds, then the attackers join; metrics of the honest users.

The attackers join late: the model is first trained without them, in the clean rounds, and all
scenarios of a method and seed start from that same model. Attackers are *added* to the honest
nodes, so that every row measures the same honest users. Metrics are those of the last round's
model, not of the round that is best on validation, which could be from before the attack.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.data.partition import partition_users
from lumos_core.data.prepared_folder import load_prepared, node_folders
from lumos_core.errors import ConfigError, ModelError
from lumos_core.experiments.poisoning.guards import NO_GUARD, Guard
from lumos_core.experiments.poisoning.knowledge import Knowledge, cold_target, interaction_counts
from lumos_core.experiments.poisoning.malicious_node import ATTACKS, MaliciousNode
from lumos_core.experiments.poisoning.poisoned_population import PoisonedPopulation
from lumos_core.experiments.poisoning.poisoned_users import replace_interactions
from lumos_core.experiments.poisoning.scenarios import Scenario
from lumos_core.experiments.results_file import Result
from lumos_core.federation.node import Node
from lumos_core.federation.population import Population
from lumos_core.federation.round_loop import Federation
from lumos_core.learning.model import build_model, set_params
from lumos_core.learning.parameters import ModelShape, Params
from lumos_core.learning.title_start import initial_params
from lumos_core.runs.checkpoint import Checkpoint, RunProgress, load_checkpoint, save_checkpoint
from lumos_core.runs.history import History
from lumos_core.runs.resume import StartingPoint
from lumos_core.safe_files import exclusive
from lumos_core.views.view import UserViews, Views, ViewSource, no_views
from lumos_core.wire.messages import Transport

NEVER = 10**6
MALICIOUS = "other-"
"""How names of attackers begin."""
EXPOSURE_AT = 10


@dataclass(frozen=True)
class Ground:
    """What all scenarios of a data folder and seed share.

    Attributes:
        users: the honest users, with clean histories.
        views: by the user's position; empty for methods without views.
        target: the cold item that targeted attacks promote.
    """

    catalog: Catalog
    users: Sequences
    views: Views
    target: int

    @classmethod
    def of(cls, data: Path, config: RunConfig) -> "Ground":
        catalog, parts = load_prepared(data)
        users = Sequences.concat(parts)
        rng = np.random.default_rng([config.seed, 1])
        target = cold_target(users.without_last(2), len(catalog), rng)
        return cls(catalog, users, _views(data, parts, catalog, config), target)


def run_scenario(
    scenario: Scenario,
    config: RunConfig,
    data: Path,
    clean: Path,
    rounds: tuple[int, int],
    guard: Guard = NO_GUARD,
) -> Result:
    """Train, attack, measure.

    Args:
        scenario: the attack.
        config: the configuration, with method, defence and seed.
        data: a prepared folder; its users are distributed over ``scenario.nodes`` nodes.
        clean: file of the model that attacks start from; made if missing. Training on noisy
            histories does not use it and starts from the beginning.
        rounds: clean rounds, rounds under attack.
        guard: what honest nodes and the server do differently.
    """
    calm, attacked = rounds
    if scenario.noise and config.has_views and config.views == "llm":
        config = config.replace(views="tfidf")  # noisy histories have no views by the LLM
    ground = Ground.of(data, config)
    if scenario.noise:
        knowledge = Knowledge(len(ground.catalog), [])
        rng = np.random.default_rng([config.seed, 2])
        noisy = replace_interactions(ground.users, scenario.noise, knowledge, rng)
        views = _views_of(data, noisy, ground.catalog, config)
        noised = replace(ground, users=noisy, views=views)
        honest = _transport(noised, config, scenario, guard, [])
        federation = _federate(config, honest, ground, None, calm + attacked)
    else:
        honest = _transport(ground, config, scenario, guard, [])
        start = _clean_start(clean, config, honest, ground, calm)
        attackers = _attackers(scenario, config, ground)
        everybody = _transport(ground, config, scenario, guard, attackers)
        federation = _federate(config, everybody, ground, start, calm + attacked)
    rejected = [f for e in federation.history.events for f in e.get("failed", ())]
    return {
        "users": len(ground.users),
        "views": config.views if config.has_views else "none",
        "target_interactions": int(
            interaction_counts(ground.users.without_last(2), len(ground.catalog))[ground.target - 1]
        ),
        "rejected": {
            "honest": sum(not f["node"].startswith(MALICIOUS) for f in rejected),
            "malicious": sum(f["node"].startswith(MALICIOUS) for f in rejected),
        },
        **measure_honest_users(federation.models.params, config, ground),
    }


def measure_honest_users(params: Params, config: RunConfig, ground: Ground) -> dict[str, float]:
    """Metrics of the honest users, by full ranking without the items of a user's history.

    "hr@20" and "ndcg@20" are those of the test targets. The other two look only at users who do not
    have the target item in their history: "er@10" is the share of them who get it among the first
    ten, "target-rank" is its mean rank as a share of the catalog. If the weight of the titles'
    nearness is to be chosen, it is chosen on these users' validation targets.
    """
    from lumos_core.data.splits import LeaveOneOut
    from lumos_core.learning.evaluation import best_weight, evaluate, ranks_by_weight
    from lumos_core.learning.title_nearness import TitleNearness

    model = build_model(ModelShape.of(config, len(ground.catalog)))
    set_params(model, params)
    titles = TitleNearness.of(ground.catalog) if any(config.title_weights) else None
    split = LeaveOneOut(ground.users)
    weight = best_weight(evaluate(model, *split.validation(), titles, config.title_weights))
    histories, targets = split.test()
    sums = evaluate(model, histories, targets, titles, (weight,))[weight]
    strangers = [u for u, items in enumerate(ground.users) if ground.target not in items]
    shown = histories.subset(strangers)
    wanted = np.full(len(shown), ground.target)
    ranks = ranks_by_weight(model, shown, wanted, titles, (weight,))[0]
    return {
        "hr@20": sums["hr@20"] / sums["users"],
        "ndcg@20": sums["ndcg@20"] / sums["users"],
        "er@10": float((ranks <= EXPOSURE_AT).mean()),
        "target-rank": float(ranks.mean() / len(ground.catalog)),
    }


def _federate(
    config: RunConfig, transport: Transport, ground: Ground, start: Checkpoint | None, rounds: int
) -> Federation:
    """Run a federation's rounds in this process, without evaluation."""
    count = len(transport.nodes())
    # Nodes have the configuration as it was given, and noise by its min-replies.
    config = config.replace(rounds=rounds, min_nodes=count, min_replies=1, evaluate_every=NEVER)
    if not isinstance(transport, Population):  # of nodes there are few: all of them take part
        config = config.replace(fraction=1.0)
    if start is None:
        initial = initial_params(config, ground.catalog)
        start = Checkpoint(initial, {}, _progress(0, config, ground))
    federation = Federation(config, transport, StartingPoint(start, start.params), History(None))
    federation.run()
    return federation


def _clean_start(
    path: Path,
    config: RunConfig,
    honest: Transport,
    ground: Ground,
    rounds: int,
) -> Checkpoint:
    """The model before the attack: read from the file, or trained and stored there."""
    config = config.replace(rounds=rounds)
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_suffix(".lock")):  # another process may need the same model
        try:
            found = load_checkpoint(path)
            same_catalog = ground.catalog.is_known_as(found.progress.catalog)
            if same_catalog and found.progress.config == config.to_flat():
                return found
        except (FileNotFoundError, ModelError):
            pass
        trained = _federate(config, honest, ground, None, rounds)
        progress = _progress(rounds, config, ground)
        checkpoint = Checkpoint(trained.models.params, trained.models.optimizer, progress)
        save_checkpoint(path, checkpoint)
        return checkpoint


def _progress(round: int, config: RunConfig, ground: Ground) -> RunProgress:
    shape = ModelShape.of(config, len(ground.catalog)).fingerprint
    return RunProgress(round, -1, 0.0, 0, ground.catalog.fingerprint, shape, config.to_flat())


# ---------------------------------------------------------------- nodes
def _transport(
    ground: Ground,
    config: RunConfig,
    scenario: Scenario,
    guard: Guard,
    attackers: list[MaliciousNode],
) -> Transport:
    """The connection to the honest users, as nodes or each as a client, and to attackers."""
    if scenario.clients == "users":
        if guard is not NO_GUARD:
            raise ConfigError(
                "clients with one user each: the defences pieck and union are for nodes of many "
                "users; choose others, or leave out --clients users"
            )
        given = _given(ground.views)
        return PoisonedPopulation(ground.catalog, ground.users, config, given, attackers)
    nodes = _nodes(ground, config, scenario, guard)
    # a MaliciousNode has the methods of a Node
    return guard.transport([*nodes, *attackers], config)  # type: ignore[list-item]


def _nodes(ground: Ground, config: RunConfig, scenario: Scenario, guard: Guard) -> list[Node]:
    """Nodes with the honest users, distributed over them."""
    count = scenario.nodes
    owners = partition_users(len(ground.users), count, config.seed, scenario.partition)
    nodes: list[Node] = []
    for n in range(count):
        own = np.flatnonzero(owners == n)
        views = {i: ground.views[u] for i, u in enumerate(own.tolist()) if u in ground.views}
        users = ground.users.subset(own)
        nodes.append(guard.node(f"node-{n:02}", ground.catalog, users, config, _given(views)))
    return nodes


def _given(views: Views) -> ViewSource:
    return (lambda histories: views) if views else no_views


def _attackers(scenario: Scenario, config: RunConfig, ground: Ground) -> list[MaliciousNode]:
    if not scenario.malicious:
        return []
    attack = ATTACKS[scenario.attack]
    rng = np.random.default_rng([config.seed, 3, round(scenario.xi * 1000)])
    known = ground.users.without_last(2)
    knowledge = Knowledge.of(known, len(ground.catalog), scenario.xi, rng)
    weight = 1.0
    if attack.lies and config.rule in ("mean", "median-encoder", "multi-krum"):
        weight = config.max_weight_ratio
    share = scenario.malicious * weight / (scenario.malicious * weight + scenario.nodes)
    users = len(ground.users) // scenario.nodes
    return [
        MaliciousNode(
            f"{MALICIOUS}{n}",
            attack,
            ground.catalog,
            config,
            knowledge,
            ground.target,
            users,
            share,
        )
        for n in range(scenario.malicious)
    ]


# ---------------------------------------------------------------- views
def _views(data: Path, parts: list[Sequences], catalog: Catalog, config: RunConfig) -> Views:
    """Views of all users of a prepared folder, from its nodes' stores; missing ones are written."""
    if not config.has_views:
        return {}
    found: dict[int, UserViews] = {}
    first = 0
    for folder, users in zip(node_folders(data), parts, strict=True):
        source = _source(folder, catalog, config)
        found |= {first + u: v for u, v in source(users.without_last(2)).items()}
        first += len(users)
    return found


def _views_of(data: Path, users: Sequences, catalog: Catalog, config: RunConfig) -> Views:
    """Views of changed histories, stored in the first node's store."""
    if not config.has_views:
        return {}
    source = _source(node_folders(data)[0], catalog, config)
    return source(users.without_last(2))


def _source(folder: Path, catalog: Catalog, config: RunConfig) -> Callable[[Sequences], Views]:
    from lumos_core.views.source import view_source

    return view_source(config, NodeConfig(data=str(folder)), catalog)
