"""What all runs together have spent of a node: ε, and today's trainings and bytes.

``<state>/spent.json`` holds sums only, so its size has a bound. Of ε it holds the Rényi divergence
(RDP) at every order: RDP of different runs may be added at each order, and the sum is turned into
one ε at the end. That is less than the sum of the runs' ε. A run's key is made of its
configuration, so a run that is resumed is the same run, also if the server was started anew.

**One unit for all.** ε is that of one *user* of the node, added or removed. With ``dp = user`` that
is what the run itself counts. With ``dp = distributed`` a user changes the delta from one of norm
C to another one, by up to 2 C, so half the noise counts, and of the noise only what the node can be
sure of: its own, and with secure aggregation that of the nodes without which it gives no sum away.
Where the server adds the noise (``central``), or nobody does, a node cannot know ε: such trainings
are only counted.

A training is written down before its noise is drawn. If that fails, the training must not begin.
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from lumos_core.config import FloorKeys, RunConfig
from lumos_core.errors import DataError, reason_of
from lumos_core.privacy.budget import ORDERS, private_steps
from lumos_core.safe_files import JsonFile, exclusive, lock_beside, private_folder

FILE = "spent.json"
RUNS = 32
"""Runs that are listed one by one, those that trained last. The sums have all."""
LOCK_SECONDS = 60.0
_ORDERS = tuple(map(float, ORDERS))
_NOTHING = (0.0,) * len(_ORDERS)


def sure_noise(config: RunConfig, floor: FloorKeys) -> float:
    """The noise of one training that a node can be sure of, in units of ``dp-clip``.

    With ``central`` it is what the run says: the node has to trust the server. A public seed makes
    noise that hides nothing.
    """
    if config.dp == "none" or config.dp_noise_seed >= 0:
        return 0.0
    if config.dp != "distributed":
        return config.dp_noise_multiplier
    sure = floor.secagg_min_nodes if config.secure_aggregation else 1
    return config.dp_noise_multiplier * math.sqrt(min(sure / config.min_replies, 1.0))


@dataclass(frozen=True)
class Training:
    """One training: ``steps`` sampled Gaussian mechanisms.

    Attributes:
        noise: relative to what one user can change; 0 if the node cannot know it.
        rate: probability with which a user is drawn for a step.
        steps: their number.
    """

    noise: float = 0.0
    rate: float = 1.0
    steps: int = 1

    @classmethod
    def of(cls, config: RunConfig, floor: FloorKeys, users: int) -> Self:
        """The next training of a run on a node with so many users."""
        noise = sure_noise(config, floor)
        if config.dp == "user":
            return cls(noise, *private_steps(users, config))
        return cls(noise / 2) if config.dp == "distributed" else cls()

    def rdp(self) -> tuple[float, ...]:
        """The RDP at each order; infinite where it cannot be computed, as at some high orders."""
        found = _opacus().compute_rdp(
            q=self.rate, noise_multiplier=self.noise, steps=self.steps, orders=list(_ORDERS)
        )
        return tuple(math.inf if math.isnan(value) else float(value) for value in found)


class RunSpent(BaseModel):
    """What one run has spent of this node.

    Attributes:
        run: its key.
        trainings: how many.
        rdp: their sum at each order.
        reply_bytes: size of the last reply to a training; 0 before the first.
        too_long: the limit in seconds that a training of today exceeded; 0 if none did.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    run: str
    trainings: int = 0
    rdp: tuple[float, ...] = _NOTHING
    reply_bytes: int = 0
    too_long: float = 0.0


class Spent(JsonFile):
    """The content of the file.

    Attributes:
        orders: of the sums; those of another version are kept as far as both know them.
        rdp: of all runs, at each order.
        trainings: of all runs.
        uncounted: those of them whose ε the node cannot know.
        day: the day (UTC) that the next two are about.
        trainings_today: of all runs.
        bytes_today: sent, in all replies.
        runs: those that trained last, the latest at the end.
    """

    repair = (
        "it holds what runs have spent of this node, so nothing is trained without it: restore it "
        "from a copy, or delete it if ε of all earlier runs may be forgotten"
    )

    orders: tuple[float, ...] = _ORDERS
    rdp: tuple[float, ...] = _NOTHING
    trainings: int = 0
    uncounted: int = 0
    day: str = ""
    trainings_today: int = 0
    bytes_today: int = 0
    runs: tuple[RunSpent, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for rdp in (self.rdp, *(run.rdp for run in self.runs)):
            if len(rdp) != len(self.orders) or not all(value >= 0 for value in rdp):
                raise ValueError(f"'rdp' must hold {len(self.orders)} numbers from 0 on")
        return self

    def on(self, day: str) -> Self:
        """The same on this day: what is counted by the day begins anew with each."""
        if day == self.day:
            return self
        runs = tuple(run.model_copy(update={"too_long": 0.0}) for run in self.runs)
        fresh = {"day": day, "trainings_today": 0, "bytes_today": 0, "runs": runs}
        return self.model_copy(update=fresh)

    def run(self, key: str) -> RunSpent:
        """What a run has spent; nothing if it is not among those that trained last."""
        return next((run for run in self.runs if run.run == key), RunSpent(run=key))

    def after_training(self, key: str, training: Training) -> Self:
        """The same after one more training of a run."""
        run = self.run(key)
        changes: dict[str, object] = {
            "trainings": self.trainings + 1,
            "trainings_today": self.trainings_today + 1,
        }
        of_run: dict[str, object] = {"trainings": run.trainings + 1}
        if training.noise:
            more = training.rdp()
            changes["rdp"] = _sum(self.rdp, more)
            of_run["rdp"] = _sum(run.rdp, more)
        else:
            changes["uncounted"] = self.uncounted + 1
        return self.model_copy(update=changes).with_run(run.model_copy(update=of_run))

    def with_run(self, run: RunSpent) -> Self:
        """The same with this run as the latest; the earliest are forgotten."""
        others = [other for other in self.runs if other.run != run.run]
        return self.model_copy(update={"runs": (*others, run)[-RUNS:]})

    def epsilon(self, delta: float) -> float:
        """ε of all runs together."""
        return _epsilon(self.rdp, delta)

    def epsilon_of(self, key: str, delta: float) -> float:
        """ε of one run."""
        return _epsilon(self.run(key).rdp, delta)

    def known_now(self) -> Self:
        """The same at today's orders: a sum at an order that the file lacks counts as infinite."""
        if self.orders == _ORDERS:
            return self

        def moved(rdp: tuple[float, ...]) -> tuple[float, ...]:
            known = dict(zip(self.orders, rdp, strict=False))
            return tuple(known.get(order, math.inf) for order in _ORDERS)

        runs = tuple(run.model_copy(update={"rdp": moved(run.rdp)}) for run in self.runs)
        return self.model_copy(update={"orders": _ORDERS, "rdp": moved(self.rdp), "runs": runs})


class AccountError(OSError):
    """What was spent cannot be read or written down."""


class Account:
    """The file of one node.

    Args:
        state: the node's state folder.
    """

    def __init__(self, state: Path) -> None:
        self.path = state / FILE

    def read(self) -> Spent:
        """What has been spent, as of today; nothing if there is no file.

        Raises:
            AccountError: the file cannot be read or is damaged, or a newer LUMOS wrote it.
        """
        try:
            found = Spent.read_if_there(self.path)
        except DataError as error:
            raise AccountError(str(error)) from error
        return (found.known_now() if found else Spent()).on(today())

    def change(self, change: Callable[[Spent], Spent]) -> None:
        """Replace the content, while no other process of the node does.

        Args:
            change: from what was spent to what is spent now; nothing is written if it raises.

        Raises:
            AccountError: the file cannot be read or written.
        """
        try:
            private_folder(self.path.parent)
            with exclusive(lock_beside(self.path), LOCK_SECONDS, mode=0o600):
                change(self.read()).write(self.path, 0o600)
        except AccountError:
            raise
        except OSError as error:
            raise AccountError(f"{self.path}: cannot be written: {reason_of(error)}") from error


def bounded(epsilon: float) -> float | None:
    """ε, or None if it has no bound."""
    return epsilon if math.isfinite(epsilon) else None


def today() -> str:
    """The day in UTC."""
    return datetime.now(UTC).date().isoformat()


def _sum(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _epsilon(rdp: tuple[float, ...], delta: float) -> float:
    if not any(rdp):
        return 0.0
    found, _ = _opacus().get_privacy_spent(orders=list(_ORDERS), rdp=list(rdp), delta=delta)
    return max(float(found), 0.0)


@cache
def _opacus() -> ModuleType:
    """Opacus' module of RDP, loaded without the package around it: importing that takes seconds,
    and a node starts a process for every message."""
    package = importlib.util.find_spec("opacus")
    assert package is not None, "a dependency of LUMOS"
    path = Path(str(package.origin)).parent / "accountants" / "analysis" / "rdp.py"
    spec = importlib.util.spec_from_file_location("opacus_rdp", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
