"""The owner's floor, enforced: what a run may ask of a node, and what it may not.

One table, `LIMITS`: for each key of :class:`~lumos_core.config.FloorKeys` how it is found out that
a message asks for more, what to do then, and how the limit reads in plain words. Limits of the
run's configuration are checked for every message, before the node's data are opened. The others
need the number of users and what was spent before, and are checked before the work begins. Three
limits are checked once more where they would be exceeded: ε and the day's trainings when a training
is written down, the day's bytes when a reply is ready, and the seconds between two steps of a
training.

The owner reads every reason, in the node's log, on its terminal and in ``lumos node policy``. The
server learns one key.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.errors import LumosError
from lumos_core.privacy.node_budget import Account, Spent, Training, sure_noise
from lumos_core.safe_files import JsonFile
from lumos_core.views.llm.find import BUNDLED

REFUSED = "refused.json"  # in the state folder: the last refusal
EVERY = frozenset({"describe", "artefact", "prepare", "train", "evaluate", "secagg"})
"""Kinds of messages."""
_TRAIN = frozenset({"train"})
_TOWARDS_TRAINING = frozenset({"describe", "prepare", "train"})


class BelowFloorError(LumosError):
    """A message asks for more than the node's owner allows.

    Args:
        breaches: key of the node's settings → sentence for the owner; at least one.
    """

    def __init__(self, breaches: dict[str, str]) -> None:
        super().__init__("\n".join(breaches.values()))
        self.key = next(iter(breaches))
        """The only thing that the server is told."""
        self.sentences = tuple(breaches.values())


class TrainingTooLongError(BelowFloorError):
    """A training took longer than ``max-training-seconds``."""


class Refusal(JsonFile):
    """The last refusal, for the owner.

    Attributes:
        time: when it was written, in seconds since 1970.
        sentences: the reasons.
    """

    time: float = 0.0
    sentences: tuple[str, ...] = ()

    @classmethod
    def of_node(cls, state: Path) -> Self | None:
        """What a node refused last; None if nothing, or the file is damaged."""
        return cls.read_if_sound(state / REFUSED)


@dataclass(frozen=True)
class Asked:
    """A message as the limits see it.

    Attributes:
        kind: of :data:`EVERY`.
        config: the run's.
        node: the node's, with the floor.
        users: of the node; known once its data are open.
        run: the run's key.
        spent: by all runs so far, as of today.
    """

    kind: str
    config: RunConfig
    node: NodeConfig
    users: int = 0
    run: str = ""
    spent: Spent = field(default_factory=Spent)

    @property
    def training(self) -> Training:
        """What the run's next training would cost."""
        return Training.of(self.config, self.node, self.users)


class Limit(NamedTuple):
    """A row of the table.

    Attributes:
        key: of the node's settings.
        beyond: what a message asks for beyond the limit, in words; empty if it stays within.
        repair: what can be done about it.
        says: the limit in plain words.
        kinds: of the messages that it concerns.
        counted: whether it needs the node's data and what was spent.
    """

    key: str
    beyond: Callable[[Asked], str]
    repair: str
    says: Callable[[NodeConfig], str]
    kinds: frozenset[str] = EVERY
    counted: bool = False


def check(asked: Asked, counted: bool) -> None:
    """Compare a message with the limits.

    Args:
        asked: the message.
        counted: False: the limits of the run's configuration; True: the others.

    Raises:
        BelowFloorError: names every limit that it goes beyond.
    """
    breaches = {
        limit.key: _sentence(limit.key, found, asked.node, limit.repair)
        for limit in LIMITS
        if limit.counted == counted and asked.kind in limit.kinds and (found := limit.beyond(asked))
    }
    if breaches:
        raise BelowFloorError(breaches)


def time_limit(node: NodeConfig) -> Callable[[], None]:
    """A function for a training that begins now, to be called before every step. It raises
    TrainingTooLongError once ``max-training-seconds`` have passed."""
    started = time.monotonic()

    def check_time() -> None:
        seconds, limit = time.monotonic() - started, node.max_training_seconds
        if limit and seconds > limit:
            found = f"a training that has taken {seconds:.3g} seconds"
            sentence = _sentence("max-training-seconds", found, node, _REPAIR_SECONDS)
            raise TrainingTooLongError({"max-training-seconds": sentence})

    return check_time


class Floor:
    """The floor of one node, for one message.

    Args:
        kind: of :data:`EVERY`.
        config: the run's configuration.
        node: the node's.
    """

    def __init__(self, kind: str, config: RunConfig, node: NodeConfig) -> None:
        self._asked = Asked(kind, config, node)
        self._account = Account(node.state_folder)

    def check_run(self) -> None:
        """Raises BelowFloorError if the run's configuration is beyond a limit."""
        check(self._asked, counted=False)

    def check_work(self, users: int, run: str) -> None:
        """Check the limits that need the node's data and what was spent.

        Args:
            users: of the node.
            run: the run's key.

        Raises:
            BelowFloorError: the work would go beyond a limit.
            AccountError: what was spent cannot be read.
        """
        self._asked = replace(self._asked, users=users, run=run)
        check(replace(self._asked, spent=self._account.read()), counted=True)

    @contextmanager
    def training(self) -> Iterator[None]:
        """A training. It is written down before the block begins, and counts even if that fails.

        Raises:
            BelowFloorError: it would go beyond a limit, or took too long.
            AccountError: it cannot be written down.
        """
        self._account.change(self._with_training)
        try:
            yield
        except TrainingTooLongError:
            self._account.change(self._with_too_long)
            raise

    def sends(self, size: int) -> None:
        """Count a reply before it leaves.

        Args:
            size: its bytes.

        Raises:
            BelowFloorError: it would be more than ``max-bytes-a-day``.
            AccountError: it cannot be written down.
        """
        limit = self._asked.node.max_bytes_a_day
        too_much: list[str] = []

        def change(spent: Spent) -> Spent:
            if self._asked.kind == "train" and self._asked.run:
                run = spent.run(self._asked.run).model_copy(update={"reply_bytes": size})
                spent = spent.with_run(run)
            if limit and spent.bytes_today + size > limit:
                too_much.append(_bytes_beyond(spent, size))
                return spent
            return spent.model_copy(update={"bytes_today": spent.bytes_today + size})

        self._account.change(change)
        if too_much:
            key = "max-bytes-a-day"
            sentence = _sentence(key, too_much[0], self._asked.node, _REPAIR_DAY)
            raise BelowFloorError({key: sentence})

    def _with_training(self, spent: Spent) -> Spent:
        check(replace(self._asked, spent=spent), counted=True)  # another message may have come
        return spent.after_training(self._asked.run, self._asked.training)

    def _with_too_long(self, spent: Spent) -> Spent:
        limit = self._asked.node.max_training_seconds
        return spent.with_run(spent.run(self._asked.run).model_copy(update={"too_long": limit}))


def policy(node: NodeConfig) -> dict[str, dict[str, object]]:
    """The floor of a node: key → its value, and what it means in plain words."""
    flat = node.to_flat()
    return {limit.key: {"value": flat[limit.key], "means": limit.says(node)} for limit in LIMITS}


def _sentence(key: str, found: str, node: NodeConfig, repair: str) -> str:
    limit = node.to_flat()[key]
    shown = str(limit).lower() if isinstance(limit, bool) else limit if limit != "" else '""'
    return f"refused: the run asks for {found}; this node has {key} = {shown}; {repair}"


# ---------------------------------------------------------------- the run's configuration
def _plain_deltas(asked: Asked) -> str:
    forbidden = asked.node.require_secure_aggregation and not asked.config.secure_aggregation
    return "secure-aggregation = false" if forbidden else ""


def _kind_of_dp(asked: Asked) -> str:
    dp, noise = asked.config.dp, sure_noise(asked.config, asked.node)
    if (dp if noise else "none") in asked.node.dp_kinds:
        return ""
    return f"dp = {dp}" if dp == "none" or noise else f"dp = {dp} with {_no_noise(asked.config)}"


def _little_noise(asked: Asked) -> str:
    config, noise = asked.config, sure_noise(asked.config, asked.node)
    if noise >= asked.node.min_noise_multiplier:
        return ""
    if config.dp == "none":
        return "dp = none, which adds no noise"
    if not noise:
        return _no_noise(config)
    if noise == config.dp_noise_multiplier:
        return f"dp-noise-multiplier = {noise:g}"
    return (
        f"dp-noise-multiplier = {config.dp_noise_multiplier:g} shared by min-replies = "
        f"{config.min_replies} nodes, of which this one can be sure of {noise:.3g}"
    )


def _no_noise(config: RunConfig) -> str:
    if config.dp_noise_seed >= 0:
        return f"dp-noise-seed = {config.dp_noise_seed}, a public seed, whose noise hides nothing"
    return f"dp-noise-multiplier = {config.dp_noise_multiplier:g}"


def _unknown_llm(asked: Asked) -> str:
    node, llm = asked.node, asked.config.llm
    known = node.llm or llm == BUNDLED or llm in node.llms  # its own model replaces the run's
    return "" if known else f"llm = {llm!r}"


def _many_epochs(asked: Asked) -> str:
    limit, epochs = asked.node.max_local_epochs, asked.config.local_epochs
    return f"local-epochs = {epochs}" if limit and epochs > limit else ""


# ---------------------------------------------------------------- data, and what was spent
def _few_users(asked: Asked) -> str:
    few = asked.users < asked.node.min_users
    return f"a reply that speaks for {asked.users} users" if few else ""


def _joins(asked: Asked) -> bool:
    """Whether the message leads to another training. A node that has trained in a run may stay in
    it, to evaluate, when it may not train any more."""
    return asked.kind == "train" or not asked.spent.run(asked.run).trainings


def _run_epsilon(asked: Asked) -> str:
    return _epsilon_beyond(
        asked, asked.node.max_run_epsilon, lambda s, delta: s.epsilon_of(asked.run, delta), "run"
    )


def _total_epsilon(asked: Asked) -> str:
    return _epsilon_beyond(
        asked, asked.node.max_total_epsilon, lambda s, delta: s.epsilon(delta), "all runs"
    )


def _epsilon_beyond(
    asked: Asked, limit: float, epsilon: Callable[[Spent, float], float], of: str
) -> str:
    if not limit or not _joins(asked):
        return ""
    training, delta = asked.training, asked.node.epsilon_delta
    if not training.noise:
        config = asked.config
        why = f"dp = {config.dp}" if config.dp in ("none", "central") else _no_noise(config)
        return f"{why}, of which this node cannot count ε"
    after = epsilon(asked.spent.after_training(asked.run, training), delta)
    if after <= limit:
        return ""
    before = epsilon(asked.spent, delta)
    return (
        f"a training that makes ε of {of} {after:.3g} (so far {before:.3g}, for a user of this "
        f"node, δ = {delta:g})"
    )


def _many_seconds(asked: Asked) -> str:
    limit, before = asked.node.max_training_seconds, asked.spent.run(asked.run).too_long
    return f"a training that took more than {before:g} seconds today" if 0 < limit <= before else ""


def _many_trainings(asked: Asked) -> str:
    limit, today = asked.node.max_rounds_a_day, asked.spent.trainings_today
    return f"training number {today + 1} of today (UTC)" if limit and today >= limit else ""


def _many_bytes(asked: Asked) -> str:
    limit, spent = asked.node.max_bytes_a_day, asked.spent
    size = spent.run(asked.run).reply_bytes if asked.kind == "train" else 1
    return _bytes_beyond(spent, size) if limit and spent.bytes_today + size > limit else ""


def _bytes_beyond(spent: Spent, size: int) -> str:
    return f"a reply of {size} bytes beside the {spent.bytes_today} of today (UTC)"


_ASK = "ask the server's operator for"
_REPAIR_SECONDS = f"{_ASK} fewer local-epochs, raise the limit, or wait for the next day (UTC)"
_REPAIR_DAY = "wait for the next day (UTC), or raise the limit in node.toml"

LIMITS: tuple[Limit, ...] = (
    Limit(
        "require-secure-aggregation",
        _plain_deltas,
        f"{_ASK} secure-aggregation = true, or set the key to false in node.toml",
        lambda n: (
            f"only sums of {n.secagg_min_nodes} or more nodes (secure aggregation)"
            if n.require_secure_aggregation
            else "may read this node's own delta"
        ),
    ),
    Limit(
        "allowed-dp",
        _kind_of_dp,
        f"{_ASK} one of these with secret noise, or add the kind to the key in node.toml",
        lambda n: f"dp must be {' or '.join(sorted(n.dp_kinds))}",
    ),
    Limit(
        "min-noise-multiplier",
        _little_noise,
        f"{_ASK} a larger dp-noise-multiplier, or lower the limit in node.toml",
        lambda n: (
            f"noise of at least {n.min_noise_multiplier:g} times dp-clip"
            if n.min_noise_multiplier
            else "any noise, however small"
        ),
    ),
    Limit(
        "allowed-llms",
        _unknown_llm,
        f"{_ASK} llm = {BUNDLED}, add the model to the key in node.toml, or set llm there",
        lambda n: (
            f"views are written by this node's own {n.llm}, whatever the run names"
            if n.llm
            else f"the language model must be {' or '.join([BUNDLED, *sorted(n.llms)])}"
        ),
    ),
    Limit(
        "max-local-epochs",
        _many_epochs,
        f"{_ASK} fewer local-epochs, or raise the limit in node.toml",
        lambda n: _at_most(n.max_local_epochs, "epochs in a round"),
    ),
    Limit(
        "min-users",
        _few_users,
        "add users to the node's data, or lower the limit in node.toml",
        lambda n: f"works only if its reply speaks for {n.min_users} or more users",
        EVERY - {"secagg", "artefact"},
        counted=True,
    ),
    Limit(
        "max-run-epsilon",
        _run_epsilon,
        f"{_ASK} more noise or fewer epochs, or raise the limit in node.toml",
        lambda n: _at_most(n.max_run_epsilon, f"ε in a run (δ = {n.epsilon_delta:g})"),
        _TOWARDS_TRAINING,
        counted=True,
    ),
    Limit(
        "max-total-epsilon",
        _total_epsilon,
        f"{_ASK} more noise or fewer epochs, or raise the limit in node.toml; ε that was spent "
        "does not come back",
        lambda n: _at_most(n.max_total_epsilon, f"ε in all runs (δ = {n.epsilon_delta:g})"),
        _TOWARDS_TRAINING,
        counted=True,
    ),
    Limit(
        "max-training-seconds",
        _many_seconds,
        _REPAIR_SECONDS,
        lambda n: _at_most(n.max_training_seconds, "seconds of training in a round"),
        _TRAIN,
        counted=True,
    ),
    Limit(
        "max-rounds-a-day",
        _many_trainings,
        _REPAIR_DAY,
        lambda n: _at_most(n.max_rounds_a_day, "trainings a day (UTC)"),
        _TRAIN,
        counted=True,
    ),
    Limit(
        "max-bytes-a-day",
        _many_bytes,
        _REPAIR_DAY,
        lambda n: _at_most(n.max_bytes_a_day, "bytes sent a day (UTC)"),
        EVERY - {"secagg", "artefact"},
        counted=True,
    ),
)
"""Every limit, in the order in which the server is told of them."""


def _at_most(limit: float, what: str) -> str:
    return f"at most {limit} {what}" if limit else f"no limit of {what}"
