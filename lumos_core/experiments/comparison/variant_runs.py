"""One run of a variant: trains or counts, then ranks all users in one place.

However a variant was trained, its model ranks the pooled users, in one order, by one function. So
the metrics of all variants are of the same users, and differences can be paired user by user.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences, partition_users
from lumos_core.data.pooled import Pooled, pool
from lumos_core.data.prepared_folder import load_prepared, read_dataset_facts
from lumos_core.data.splits import Split, SplitKeys, least_history, split_of
from lumos_core.errors import DataError
from lumos_core.experiments.comparison import tuning, variants
from lumos_core.experiments.comparison.fairness import training_lengths
from lumos_core.experiments.comparison.packed_ranks import pack_counts, pack_ranks
from lumos_core.experiments.comparison.rarity import target_counts
from lumos_core.experiments.jobs import Job, data_facts
from lumos_core.experiments.results_file import Result, ResultsFile
from lumos_core.learning.metrics import means, ranking_sums

if TYPE_CHECKING:
    from lumos_core.learning.baselines import OnEpoch
    from lumos_core.learning.parameters import Params
    from lumos_core.learning.suggestions import Suggestions

Partition = Literal["stored", "drawn", "users"]
"""Which users a node has: those of its folder, those that the run's seed draws for it, or one user
alone, who is then a client (``--clients users``)."""
Ranks = dict[str, np.ndarray]
"""By split ("validation", "test"): float64 [U], in the order of the pooled users."""

MERGED = "merged_users"
"""Key of results on pooled data: users who have interactions on more than one node."""
RANKS = "ranks"
"""Key of results: packed ranks of all users by split; see :mod:`.packed_ranks`."""
TARGET_USES = "target_uses"
"""Key of results: how often each test target occurs in the training histories, packed counts."""
CLIPPED_TARGET_USES = "target_counts"
"""Key of results of earlier versions: the same, packed as ranks are, so none is above 101."""
HISTORY_LENGTHS = "history_lengths"
"""Key of results: packed lengths of the users' training histories."""
SUGGESTED = "suggested"
"""Key of results: of the first 20 suggestions of all users, on test, see
:func:`suggested_facts`."""
OWNERS = "owners"
"""Key of results: for each user, the packed number of the node that has them. A user of several
nodes is counted on the first. Runs with one node, or one user a client, do not have it."""
CENTRALISED_MAX_EPOCHS = 150
CENTRALISED_PATIENCE = 10


@dataclass(frozen=True)
class VariantRun(Job):
    """One run of a variant.

    Attributes:
        variant: its name.
        partition: which users a node has.
        tuned: the point of the tuning grid that ``config`` was chosen from, if it was.
        tuning: the point of the grid that this run tries, if it is a part of tuning.
    """

    variant: str
    partition: Partition = "stored"
    tuned: str | None = None
    tuning: str | None = None

    def names(self) -> Result:
        """None stands for a key that the result does not have: so do results of earlier versions,
        which knew no other partition and no tuning."""
        return {
            "variant": self.variant,
            "partition": None if self.partition == "stored" else self.partition,
            tuning.TUNED: self.tuned,
            tuning.TUNING: self.tuning,
        }

    def work(self) -> Result:
        ground = Ground.of(self.data, self.partition, self.config.seed, self.config)
        found, ranks = _run(self, ground)
        users = sum(map(len, ground.nodes.values()))
        facts: Result = {"nodes": users if ground.one_user else len(ground.nodes), "users": users}
        if ranks is not None:
            found |= {split: means(ranking_sums(row)) for split, row in ranks.items()}
            found[RANKS] = {split: pack_ranks(row) for split, row in ranks.items()}
            facts |= user_facts(ground)
        return {**facts, **found}


@dataclass(frozen=True)
class Ground:
    """The data of a run.

    Attributes:
        folder: the prepared folder.
        nodes: the users of each node, by its name.
        pooled: all users, each with one history.
        drawn: whether the users were dealt out by the run's seed.
        one_user: whether each user is a client; ``nodes`` then has one entry with all of them.
    """

    folder: Path
    catalog: Catalog
    nodes: Mapping[str, Sequences]
    pooled: Pooled
    drawn: bool
    split: Split
    one_user: bool = False

    @classmethod
    def of(
        cls, folder: Path, partition: Partition, seed: int, keys: SplitKeys | None = None
    ) -> "Ground":
        """Read a prepared folder and, if asked for, deal its users out to as many nodes anew.

        Args:
            folder: a prepared folder.
            partition: which users a node has.
            seed: of the run.
            keys: what is held out; leave-one-out if not given.

        Raises:
            DataError: it is not a prepared folder, or a file in it is malformed, or a window of
                time in which nobody has a target.
        """
        keys = keys or RunConfig()
        least = least_history(keys.evaluation)
        catalog, nodes = load_prepared(folder, least)
        pooled, drawn = pool(folder, catalog, nodes, least), partition == "drawn"
        split = _measuring(folder, keys, pooled.users)
        if drawn:
            scheme = read_dataset_facts(folder).partition
            owners = partition_users(
                len(pooled.users), len(nodes), seed, "skewed" if scheme == "skewed" else "uniform"
            )
            nodes = [pooled.users.subset(np.flatnonzero(owners == n)) for n in range(len(nodes))]
        one_user = partition == "users"
        if one_user:
            nodes = [pooled.users]
        named = {f"node-{n}": users for n, users in enumerate(nodes)}
        return cls(folder, catalog, named, pooled, drawn, split, one_user)

    def owners(self) -> np.ndarray:
        """int64 [U]: the number of the first node that has each of the pooled users with a test
        target."""
        owner: dict[str, int] = {}
        for number, users in enumerate(self.nodes.values()):
            for user in users.user_ids:
                owner.setdefault(user, number)
        owners = [owner[user] for user in self.split.sequences.user_ids]
        return np.array(owners, dtype=np.int64)[self.split.users_in("test")]


def _measuring(folder: Path, keys: SplitKeys, users: Sequences) -> Split:
    """The split of all users.

    Raises:
        DataError: nobody has a target in one of its windows.
    """
    split = split_of(keys, users)
    for name in ("validation", "test"):
        if not len(split.users_in(name)):
            raise DataError(
                f"{folder}: found no user with an interaction before evaluate-from = "
                f"{keys.evaluate_from} and one in the {name} window, expected some; choose other "
                "days for evaluate-from and test-from"
            )
    return split


def user_facts(ground: Ground) -> Result:
    """What results say about their users, whatever the run: how often their targets occur, how long
    their histories are, and which node has them."""
    users, split = ground.pooled.users, ground.split
    facts: Result = {
        TARGET_USES: pack_counts(target_counts(users, split)),
        HISTORY_LENGTHS: pack_counts(training_lengths(users, split)),
    }
    if len(ground.nodes) > 1:
        facts[OWNERS] = pack_counts(ground.owners())
    return facts


def add_user_facts(file: ResultsFile, folder: Path) -> None:
    """Add :func:`user_facts` to results of versions that did not keep them, if they are of this
    data.

    Args:
        file: the results.
        folder: a prepared folder.
    """
    data = data_facts(folder)
    known: dict[tuple[object, ...], Result] = {}

    def with_facts(result: Result) -> Result:
        same = all(result.get(key) == value for key, value in data.items())
        if not same or RANKS not in result or TARGET_USES in result:
            return result
        partition: Partition = result.get("partition", "stored")
        seed = result["seed"] if partition == "drawn" else 0
        keys = RunConfig.from_saved(result["config"])
        which = partition, seed, keys.evaluation, keys.evaluate_from, keys.test_from
        if which not in known:
            known[which] = user_facts(Ground.of(folder, partition, seed, keys))
        clipped = (CLIPPED_TARGET_USES,)
        return {**{k: v for k, v in result.items() if k not in clipped}, **known[which]}

    file.change(with_facts)


def _run(job: VariantRun, ground: Ground) -> tuple[Result, Ranks | None]:
    if job.variant in variants.COUNTED:
        return _counted(job.variant, ground)
    if job.variant == variants.LOCAL:
        return _local(job.config, ground)
    if job.variant in variants.UNFEDERATED:
        return _centralised(job.config, ground)
    return _federated(job.config, ground)


def _counted(name: str, ground: Ground) -> tuple[Result, Ranks]:
    from lumos_core.learning.counting import count

    counted = count(name, ground.pooled.users, ground.catalog.titles, ground.split)
    found = {
        "chosen": counted.chosen, "curve": [], MERGED: ground.pooled.merged,
        SUGGESTED: suggested_facts(counted.suggested, ground.split.train()),
    }  # fmt: skip
    return found, {"validation": counted.validation, "test": counted.test}


def _federated(config: RunConfig, ground: Ground) -> tuple[Result, Ranks]:
    from lumos_core.federation.simulate import prepared_views, simulate
    from lumos_core.privacy.mechanisms import fewest_replies

    count = len(ground.pooled.users) if ground.one_user else len(ground.nodes)
    config = config.replace(min_nodes=count, min_replies=fewest_replies(config, count))
    shared = ground.drawn or ground.one_user
    views_of = prepared_views(config, ground.catalog, ground.folder, shared=shared)
    result = simulate(
        config, ground.catalog, ground.nodes, views_of=views_of,
        clients="users" if ground.one_user else "nodes",
    )  # fmt: skip
    curve = [e for e in result.events if e["event"] == "evaluation" and e["split"] == "validation"]
    trained = [e["bytes_up"] for e in result.events if e["event"] == "round"]
    since_best = sum(e["round"] > result.best_round for e in curve)
    ranks, shown = final_ranks(
        config, result.params, ground.pooled.users, ground.catalog, result.title_weight
    )
    return {
        "best_round": result.best_round,
        "title_weight": result.title_weight,
        "converged": 0 < config.patience <= since_best,
        "validation": result.validation,
        "test": result.test,
        "curve": [{k: e[k] for k in ("round", "hr@20", "ndcg@20")} for e in curve],
        "bytes_up": trained,
        "epsilon": result.epsilon,
        MERGED: ground.pooled.merged,
        SUGGESTED: shown,
    }, ranks


def _centralised(config: RunConfig, ground: Ground) -> tuple[Result, Ranks]:
    """One model for all users."""
    curve: list[Result] = []

    def on_epoch(epoch: Result) -> None:
        curve.append({"round": epoch["epoch"], **{k: epoch[k] for k in ("hr@20", "ndcg@20")}})

    params, found = _trained(config, ground, [ground.pooled.users], on_epoch)[0]
    ranks, shown = final_ranks(
        config, params, ground.pooled.users, ground.catalog, found["title_weight"]
    )
    return {
        "best_round": found["best_epoch"],
        "epochs": found["epochs"],
        "title_weight": found["title_weight"],
        "converged": found["converged"],
        "curve": curve,
        MERGED: ground.pooled.merged,
        SUGGESTED: shown,
    }, ranks


def _local(config: RunConfig, ground: Ground) -> tuple[Result, Ranks | None]:
    """One model per node, with metrics over all users. Ranks are kept only if every user is on one
    node: otherwise several models would rank the same user."""
    parts = list(ground.nodes.values())
    outcomes = _trained(config, ground, parts)
    total = sum(map(len, parts))

    def over_users(split: str) -> dict[str, float]:
        return {
            k: sum(o[split][k] * len(u) for (_, o), u in zip(outcomes, parts, strict=True)) / total
            for k in outcomes[0][1][split]
        }

    found = {
        "best_round": max(o["best_epoch"] for _, o in outcomes),
        "epochs": max(o["epochs"] for _, o in outcomes),
        "converged": all(o["converged"] for _, o in outcomes),
        "validation": over_users("validation"),
        "test": over_users("test"),
        "curve": [],
        MERGED: 0,
    }
    together = Sequences.concat(parts)
    place = {user: u for u, user in enumerate(together.user_ids)}
    if ground.pooled.merged or place.keys() != set(ground.pooled.users.user_ids):
        return found, None
    order = np.array([place[user] for user in ground.pooled.users.user_ids], dtype=np.int64)
    ranks = [
        final_ranks(config, params, users, ground.catalog, found["title_weight"])[0]
        for (params, found), users in zip(outcomes, parts, strict=True)
    ]
    splits = ("validation", "test")
    return found, {split: np.concatenate([r[split] for r in ranks])[order] for split in splits}


def _trained(
    config: RunConfig,
    ground: Ground,
    parts: Sequence[Sequences],
    on_epoch: "OnEpoch | None" = None,
) -> "list[tuple[Params, Result]]":
    """A model for each part, trained without rounds, and how training went."""
    from lumos_core.learning.baselines import train_centralised
    from lumos_core.learning.title_nearness import TitleNearness
    from lumos_core.learning.title_start import initial_params

    initial = initial_params(config, ground.catalog)
    titles = TitleNearness.of(ground.catalog) if any(config.title_weights) else None
    max_epochs, patience = epochs_and_patience(config)
    outcomes = []
    for users in parts:
        params, found = train_centralised(
            config,
            users,
            initial,
            titles,
            max_epochs=max_epochs,
            patience=patience,
            on_epoch=on_epoch,
        )
        waited = found["epochs"] - found["best_epoch"]
        outcomes.append((params, {**found, "converged": waited >= patience}))
    return outcomes


def epochs_and_patience(config: RunConfig) -> tuple[int, int]:
    """The largest number of epochs without rounds, and the epochs that may pass without a better
    model.

    With ``patience``, both are what a federation may spend: as much training in all, and as much
    between the best model and the end.
    """
    if not config.patience:
        return CENTRALISED_MAX_EPOCHS, CENTRALISED_PATIENCE
    return (
        config.rounds * config.local_epochs,
        config.patience * config.evaluate_every * config.local_epochs,
    )


def final_ranks(
    config: RunConfig,
    params: "Params",
    users: Sequences,
    catalog: Catalog,
    title_weight: float = 0.0,
) -> tuple[Ranks, Result]:
    """The ranks of all users' held-out items by a finished model, and :func:`suggested_facts` of
    what it suggests before the test items.

    Args:
        title_weight: of the titles' nearness, as it was chosen on validation.
    """
    from lumos_core.learning.evaluation import user_ranks
    from lumos_core.learning.model import build_model, set_params
    from lumos_core.learning.parameters import ITEM_TABLE, ModelShape
    from lumos_core.learning.suggestions import Suggestions
    from lumos_core.learning.title_nearness import TitleNearness

    model = build_model(ModelShape.of(config, len(params[ITEM_TABLE]) - 1), config.dropout)
    set_params(model, params)
    titles = TitleNearness.of(catalog) if title_weight else None
    split, suggested = split_of(config, users), Suggestions(len(catalog))
    ranks = {
        "validation": user_ranks(model, *split.validation(), titles, title_weight),
        "test": user_ranks(model, *split.test(), titles, title_weight, suggested),
    }
    return ranks, suggested_facts(suggested, split.train())


def suggested_facts(suggested: "Suggestions", train: Sequences) -> Result:
    """What a result says of what is suggested: the share of the catalog that is, and how often a
    suggested item occurs in the training histories, on average."""
    uses = np.bincount(train.items, minlength=len(suggested.counts))
    return {
        "coverage": round(suggested.coverage, 6),
        "mean_uses": round(suggested.mean_uses(uses), 4),
    }
