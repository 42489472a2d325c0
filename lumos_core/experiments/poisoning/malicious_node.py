"""A malicious node: it speaks the protocol, and trains with an honest Node inside it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.experiments.poisoning import (
    adapted_updates,
    cluster_attack,
    hid_attack,
    poisoned_users,
    spattack,
    updates,
)
from lumos_core.experiments.poisoning.knowledge import Knowledge
from lumos_core.federation.node import Node
from lumos_core.learning.parameters import ITEM_TABLE, Params
from lumos_core.wire.codecs import codec
from lumos_core.wire.messages import Metrics
from lumos_core.wire.reply_checks import evaluation_names

CLAIMED_USERS = 10**6
"""An attacker claims so many users that the server's limit alone decides its weight."""


@dataclass(frozen=True)
class PoisoningAttack:
    """What a malicious node trains on, how it changes the delta, and whether it lies about its
    number of users."""

    users: poisoned_users.MakeUsers
    update: updates.Update
    lies: bool = True


ATTACKS: dict[str, PoisoningAttack] = {
    # untargeted: harm everybody
    "sign-flip": PoisoningAttack(poisoned_users.known_users, updates.sign_flip),
    "gaussian": PoisoningAttack(poisoned_users.known_users, updates.gaussian),
    "scaled": PoisoningAttack(poisoned_users.known_users, updates.scaled),
    "nan": PoisoningAttack(poisoned_users.known_users, updates.not_a_number),
    "noise": PoisoningAttack(poisoned_users.noisy_users, updates.honest, lies=False),
    # targeted: promote an item
    "fake-random": PoisoningAttack(poisoned_users.random_fakes, updates.honest),
    "fake-popular": PoisoningAttack(poisoned_users.popular_fakes, updates.honest),
    "boosted": PoisoningAttack(poisoned_users.popular_fakes, updates.boosted),
    "align-items": PoisoningAttack(poisoned_users.known_users, updates.align_items),
    "align-users": PoisoningAttack(poisoned_users.known_users, updates.align_users),
    "raise-bias": PoisoningAttack(poisoned_users.known_users, updates.raise_bias),
    # published attacks on federated recommenders
    "spattack-o-d": PoisoningAttack(poisoned_users.known_users, spattack.opposite_dense),
    "spattack-o-s": PoisoningAttack(poisoned_users.known_users, spattack.opposite_sparse),
    "spattack-l-d": PoisoningAttack(poisoned_users.known_users, spattack.same_dense),
    "spattack-l-s": PoisoningAttack(poisoned_users.known_users, spattack.same_sparse),
    "cluster": PoisoningAttack(poisoned_users.known_users, cluster_attack.cluster_items),
    "hidden": PoisoningAttack(poisoned_users.popular_fakes, hid_attack.hidden, lies=False),
    # adapted to the server's bounds
    "align-all": PoisoningAttack(poisoned_users.known_users, adapted_updates.align_all),
    "align-encoder": PoisoningAttack(poisoned_users.known_users, adapted_updates.align_encoder),
    "ruin-encoder": PoisoningAttack(poisoned_users.known_users, adapted_updates.ruin_encoder),
}


class MaliciousNode:
    """Takes the place of a :class:`~lumos_core.federation.node.Node` and attacks in every round.

    Args:
        name: stable name; with the seed it determines what is random.
        attack: the attack.
        catalog, config: the run's.
        knowledge: what it knows of the honest users.
        target: item to promote.
        users: number of users it makes up.
        weight: share of the aggregate that all colluding nodes together expect to have.
    """

    def __init__(
        self,
        name: str,
        attack: PoisoningAttack,
        catalog: Catalog,
        config: RunConfig,
        knowledge: Knowledge,
        target: int,
        users: int,
        weight: float,
    ) -> None:
        self.name = name
        self._attack, self._config, self._knowledge = attack, config, knowledge
        self._target, self._weight, self._users = target, weight, users
        self._memory: dict[str, Any] = {}
        self._seed = [config.seed, int.from_bytes(name.encode()[-4:], "little")]
        made = attack.users(knowledge, target, users, np.random.default_rng(self._seed))
        # The inner node does not encode its delta: the attack changes the delta first. No views.
        plain = config.replace(delta_codec="float32", error_feedback=False)
        self._node = Node(name, catalog, made, plain)
        self._seen: np.ndarray | None = None  # the item table of the last round
        self._change = np.zeros(len(catalog) + 1)
        self._carried = np.zeros((len(catalog) + 1, config.dim), dtype=np.float32)

    def prepare(self) -> bool:
        """Answer as an honest node that is ready."""
        return True

    def describe(self) -> dict[str, str]:
        return self._node.describe()

    def evaluate(self, params: Params, split: str, title_weight: float = 0.0) -> Metrics:
        """Metrics of no users: the bench measures only honest users."""
        weights = self._config.title_weights if split == "validation" else (title_weight,)
        return dict.fromkeys(evaluation_names(weights), 0)

    def train(
        self, params: Params, round: int, evaluate_on: str | None = None
    ) -> tuple[Params, Metrics]:
        """A malicious delta in the run's codec, with counts like those of honest training."""
        self._watch(params)
        rng = np.random.default_rng([*self._seed, round])
        trained: dict[str, tuple[Params, Metrics]] = {}

        def train() -> Params:
            if "it" not in trained:
                trained["it"] = self._node.train(params, round)
            return trained["it"][0]

        situation = updates.Situation(
            params=params,
            carried=self._carried,
            change=self._change,
            train=train,
            knowledge=self._knowledge,
            target=self._target,
            weight=self._weight,
            row_factor=self._config.clip_row_factor,
            norm_factor=self._config.clip_norm_factor,
            shape=self._node.shape,
            rng=rng,
            users=self._users,
            seed=self._config.seed,
            memory=self._memory,
        )
        delta = self._attack.update(situation)
        train()
        metrics = dict(trained["it"][1])
        if self._attack.lies:
            metrics |= {"users": CLAIMED_USERS, "examples": CLAIMED_USERS}
        if evaluate_on:
            metrics |= self.evaluate(params, evaluate_on)
        agreed = codec(self._config.delta_codec)
        arrays = agreed.encode(delta, rng, self._config.top_rows_share)
        return arrays, metrics

    def _watch(self, params: Params) -> None:
        """Sum up how far every item's embedding moves from round to round, and compute the part
        that the server's momentum will repeat."""
        table = params[ITEM_TABLE]
        if self._seen is not None:
            moved = table - self._seen
            self._change += np.linalg.norm(moved, axis=1)
            if self._config.server_optimizer == "momentum":
                self._carried = moved * np.float32(self._config.server_momentum)
        self._seen = table.copy()
