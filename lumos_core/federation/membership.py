"""The members of a run: connected nodes that have the run's catalog and model shape, and a LUMOS
that works with the server's (:mod:`lumos_core.wire.versions`).

A node that is refused or does not answer is asked again later, each time after twice the pause. So
an operator can repair it while the run continues, and until then it costs the others nothing. The
same holds for a node that the run has not chosen (`nodes`): it may come back with another tag.

A member that sends a reply too large to be read is left out of the next rounds, each time of twice
as many. Rounds that fail count as well. A server that starts anew begins with nobody left out.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lumos_core.config.node_choice import NodeChoice, claimed_tags
from lumos_core.data.catalog import differing_versions, short_fingerprint
from lumos_core.federation.older_catalogs import OlderCatalog, OlderCatalogs
from lumos_core.wire import versions
from lumos_core.wire.messages import Instruction, Reply, Transport, exchange
from lumos_core.wire.versions import UNKNOWN, Versions

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
ASKING_SECONDS = 60.0  # to wait for an answer; a node starts a process and reads its data first
RETRY_SECONDS = 10.0  # pause before a refused node is asked for the second time
LEFT_OUT_ROUNDS = 3
"""Rounds without a node that has sent a reply too large to be read; twice as many each time."""
OTHER_PROTOCOL, FOREIGN_APP = "other-protocol", "foreign-app"
"""Codes of refusals that another LUMOS may explain; see client_app.error_codes."""
_MAX_DOUBLINGS = 20  # so that the number of rounds stays one
OnVersions = Callable[[str, Versions, str], None]
"""Called with a node's name, its versions, and what to do about them, or an empty text."""
OnRefused = Callable[[Mapping[str, str]], None]
"""Called with the nodes that are refused, by name, and why."""


@dataclass(frozen=True)
class _Refusal:
    reason: str
    times: int
    ask_again: float  # time.monotonic()


class Membership:
    """Asks new nodes for their catalog and model shape and remembers the answers.

    Args:
        transport: the way to the nodes.
        expected: the fingerprints of catalog and model shape that a node's answer must contain.
        on_versions: called whenever a node has told its versions.
        chosen: which nodes the run has, as its key ``nodes``.
        on_refused: called with all nodes that are refused, and why, whenever nodes were asked.
        catalogs: knows earlier versions of the run's catalog, and is told who has one.
    """

    def __init__(
        self,
        transport: Transport,
        expected: Mapping[str, str],
        on_versions: OnVersions = lambda name, found, note: None,
        chosen: str = "",
        on_refused: OnRefused = lambda refused: None,
        catalogs: OlderCatalogs | None = None,
    ) -> None:
        self._chosen, self._choice = chosen, NodeChoice.of(chosen)
        self._transport, self._expected = transport, dict(expected)
        self._catalogs = catalogs
        self._on_versions, self._on_refused = on_versions, on_refused
        self.users: dict[str, int] = {}  # by member: how many users it claims to have
        self._members: set[str] = set()
        self._refused: dict[str, _Refusal] = {}
        self._round = 0  # how many have begun, failed ones included
        self._too_large: dict[str, int] = {}  # by node: how many of its replies were too large
        self._back_after: dict[str, int] = {}  # by node: the last round without it

    @property
    def refused(self) -> dict[str, str]:
        """Nodes that may not take part, by name, and why; sorted."""
        return {name: self._refused[name].reason for name in sorted(self._refused)}

    @property
    def left_out(self) -> list[str]:
        """Names of the members that are left out of this round, sorted."""
        return sorted(name for name, last in self._back_after.items() if self._round <= last)

    def begin_round(self) -> None:
        """A round begins, whether it succeeds or fails."""
        self._round += 1

    def leave_out(self, replies: Iterable[Reply]) -> None:
        """Leave out of the next rounds whoever has sent one of these replies that is too large."""
        for name in sorted({reply.node for reply in replies if reply.too_large}):
            self._too_large[name] = self._too_large.get(name, 0) + 1
            rounds = LEFT_OUT_ROUNDS * 2 ** (min(self._too_large[name], _MAX_DOUBLINGS) - 1)
            self._back_after[name] = self._round + rounds
            log.warning("node %s: its reply is too large; %d rounds without it", name, rounds)

    def ask_again(self, names: Iterable[str]) -> None:
        """Ask members anew who they are: they have another LUMOS than when they were asked."""
        self._members.difference_update(names)

    def present(self, seconds: float = ASKING_SECONDS) -> list[str]:
        """Connected nodes that may take part in this round, sorted; new ones are asked first.

        Args:
            seconds: the longest time to wait for answers.
        """
        names = sorted(set(self._transport.nodes()))
        now = time.monotonic()
        new = [
            name
            for name in names
            if name not in self._members
            and (name not in self._refused or now >= self._refused[name].ask_again)
        ]
        if new and seconds > 0:
            self._ask(new, min(seconds, ASKING_SECONDS))
        out = self.left_out
        return [name for name in names if name in self._members and name not in out]

    def wait_for(
        self, count: int, seconds: float, able: Callable[[list[str]], list[str]] = lambda all_: all_
    ) -> list[str]:
        """Wait until ``count`` members are able, at most ``seconds``.

        Args:
            count: how many are enough.
            seconds: the longest time to wait.
            able: those of the present members that count.

        Returns:
            All members that are present then, able or not.
        """
        until, left = time.monotonic() + seconds, seconds
        while True:
            names = self.present(left)
            left = until - time.monotonic()
            if len(able(names)) >= count or left <= 0:
                return names
            time.sleep(min(POLL_SECONDS, left))

    def _ask(self, names: list[str], seconds: float) -> None:
        questions = [Instruction(name, "describe") for name in names]
        answers = {r.node: r for r in exchange(self._transport, questions, seconds)}
        for name in names:
            answer = answers.get(name)
            older = self._older(answer)
            reason = self._mismatch(answer, older)
            if answer is not None and (answer.error is None or answer.info):
                found = Versions.of(answer.info)
                note = versions.problem_with(found) or versions.skew_of(found)
                stays = [older.note] if older is not None and not reason else []
                self._on_versions(name, found, "; ".join([*([note] if note else []), *stays]))
            if reason:
                self._refuse(name, reason)
            else:
                self._refused.pop(name, None)
                self._members.add(name)
                if self._catalogs is not None:
                    self._catalogs.note(name, older)
                self.users[name] = _count(answers[name].info.get("users", ""))
        self._on_refused(self.refused)

    def _older(self, answer: Reply | None) -> OlderCatalog | None:
        """The earlier version of the run's catalog that a node has, if it has one."""
        if answer is None or answer.error is not None or self._catalogs is None:
            return None
        return self._catalogs.find(str(answer.info.get("catalog")))

    def _mismatch(self, answer: Reply | None, older: OlderCatalog | None) -> str:
        """Why a node may not take part, or nothing."""
        if answer is None:
            return "it does not answer"
        if answer.error is not None:
            return f"it answers with error {answer.error[:80]!r}{_advice(answer)}"
        if problem := versions.problem_with(Versions.of(answer.info)):
            return problem
        expected = self._expected
        if older is not None:
            if older.refusal:
                return older.refusal
            expected = {"catalog": older.version.fingerprint, "shape": older.shape}
        for name, value in expected.items():
            found = str(answer.info.get(name))
            if found != value:
                return (
                    f"its {name} is {short_fingerprint(found)!r}…, the run's is "
                    f"{short_fingerprint(value)!r}…; give it the run's catalog.tsv and "
                    f"configuration{differing_versions(found, value)}"
                )
        tags = claimed_tags(answer.info.get("tags", ""))
        if not self._choice.takes(answer.node, tags):
            has = f"its tags are {', '.join(tags)}" if tags else "it has no tags"
            return f"nodes = {self._chosen!r} does not choose it; {has}"
        return ""

    def _refuse(self, name: str, reason: str) -> None:
        before = self._refused.get(name)
        times = before.times + 1 if before else 1
        pause = RETRY_SECONDS * 2 ** (times - 1)
        self._refused[name] = _Refusal(reason, times, time.monotonic() + pause)
        if before is None or before.reason != reason:
            log.warning("node %s: refused: %s", name, reason)


def _advice(answer: Reply) -> str:
    """What to install on a node that answers with an error, if its LUMOS may be the reason."""
    found = Versions.of(answer.info)
    if found.lumos != UNKNOWN:
        skew = versions.problem_with(found) or versions.skew_of(found)
        return f"; {skew}" if skew else ""
    if answer.error == FOREIGN_APP:
        return (
            "; if it has another LUMOS than this server, install on the node: "
            f"pip install lumos=={versions.own().lumos}"
        )
    return ""


def _count(text: str) -> int:
    """A claimed number of users; 1, the smallest possible, if the text is not a valid number."""
    return max(int(text), 1) if text.isascii() and text.isdigit() and len(text) < 10 else 1
