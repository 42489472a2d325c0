"""What left a node's machine, run by run: its ledger, put together with ``spent.json``.

The ledger says what was sent, and under which privacy. ``spent.json`` says what that costs a user:
ε of each run, and ε of all runs by one accountant, which adds their RDP order by order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lumos_core.config import FloorKeys
from lumos_core.privacy.ledger_file import FORGOTTEN, read_lines
from lumos_core.privacy.node_budget import Account, Spent, bounded

_TRAIN = "train"


@dataclass
class RunReport:
    """What one run got from this node.

    Attributes:
        run: its key in ``spent.json``; in lines of an older LUMOS, Flower's number of the run.
        first, last: times of its first and its last reply, as in the ledger.
        trainings: replies with a delta or, with secure aggregation, a masked one.
        others: all other replies.
        errors: replies that held nothing but an error code.
        rounds: the smallest and the largest number of a round that it trained in.
        bytes: of all that was sent.
        dp: kind of differential privacy; None if the ledger does not say, as an older LUMOS's.
        noise: its noise, in units of ``dp-clip``.
        public_noise: whether the noise is of a public seed, and hides nothing.
        secure_aggregation: whether the server saw sums only; None as ``dp``.
        epsilon: what it cost a user; None if that has no bound or is not known.
        counted: trainings that ``epsilon`` is about; None if the run is not in ``spent.json``.
    """

    run: str
    first: str = ""
    last: str = ""
    trainings: int = 0
    others: int = 0
    errors: int = 0
    rounds: tuple[int, int] | None = None
    bytes: int = 0
    dp: str | None = None
    noise: float = 0.0
    public_noise: bool = False
    secure_aggregation: bool | None = None
    epsilon: float | None = None
    counted: int | None = None

    def add(self, line: Mapping[str, Any]) -> None:
        """Count a line of the ledger."""
        records = line.get("records", [])
        self.first = self.first or str(line.get("time", ""))
        self.last = str(line.get("time", ""))
        whole = sum(int(record.get("bytes", 0)) for record in records)
        self.bytes += int(line.get("bytes", whole))  # an older LUMOS noted those of records only
        if "privacy" in line:
            privacy = line["privacy"]
            self.dp, self.noise = str(privacy["dp"]), float(privacy["noise"])
            self.public_noise = bool(privacy["public_noise"])
            self.secure_aggregation = bool(privacy["secure_aggregation"])
        if [record.get("record") for record in records] == ["error"]:
            self.errors += 1
        elif line.get("message") == _TRAIN:
            self.trainings += 1
            number = int(line.get("round", 0))
            least, most = self.rounds or (number, number)
            self.rounds = min(least, number), max(most, number)
        else:
            self.others += 1

    @property
    def protected(self) -> bool:
        """Whether noise that only this node or its server knows was added."""
        return self.dp not in (None, "none") and bool(self.noise) and not self.public_noise


@dataclass
class Forgotten:
    """A line about users that were forgotten.

    Attributes:
        time: when.
        users, interactions: how many; none if only what was made from users already gone.
    """

    time: str
    users: int
    interactions: int


@dataclass
class LedgerReport:
    """All that a node's ledger and ``spent.json`` say.

    Attributes:
        runs: in the order of their first replies.
        forgotten: users that were forgotten, the oldest first.
        spent: by all runs.
        delta: δ of every ε.
        run_limit, total_limit: the owner's; 0: none.
    """

    delta: float
    run_limit: float
    total_limit: float
    spent: Spent
    runs: list[RunReport] = field(default_factory=list)
    forgotten: list[Forgotten] = field(default_factory=list)

    @classmethod
    def of(cls, state: Path, floor: FloorKeys) -> Self:
        """The report of a node.

        Args:
            state: its state folder.
            floor: its owner's limits.

        Raises:
            DataError: the ledger cannot be read or is damaged.
            AccountError: the same of ``spent.json``.
        """
        spent, delta = Account(state).read(), floor.epsilon_delta
        found = cls(delta, floor.max_run_epsilon, floor.max_total_epsilon, spent)
        found._add(read_lines(state))
        known = {run.run: run.trainings for run in spent.runs}
        for run in found.runs:
            run.counted = known.get(run.run)
            if run.counted is not None and run.protected and run.dp != "central":
                run.epsilon = bounded(spent.epsilon_of(run.run, delta))
        return found

    @property
    def empty(self) -> bool:
        """Whether nothing was sent, trained or forgotten."""
        return not (self.runs or self.forgotten or self.spent.trainings)

    @property
    def epsilon(self) -> float | None:
        """ε of all runs together; None if it has no bound."""
        return bounded(self.spent.epsilon(self.delta))

    @property
    def left(self) -> float | None:
        """ε that is left below the limit of all runs; None if there is no limit."""
        if not self.total_limit:
            return None
        return max(self.total_limit - self.spent.epsilon(self.delta), 0.0)

    def _add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        runs: dict[str, RunReport] = {}
        for line in lines:
            if line.get("message") == FORGOTTEN:
                counts = int(line.get("users", 0)), int(line.get("interactions", 0))
                self.forgotten.append(Forgotten(str(line.get("time", "")), *counts))
                continue
            key = str(line.get("run_key") or line.get("run", ""))
            runs.setdefault(key, RunReport(key)).add(line)
        self.runs = list(runs.values())
