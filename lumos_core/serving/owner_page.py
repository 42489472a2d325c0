"""The page for a node's owner: what left this machine, under which privacy, what it got for it.

It quotes titles of histories, so it is for the owner alone. Users are not named on it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from lumos_core.config import NodeConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Items
from lumos_core.errors import LumosError
from lumos_core.federation.owner_floor import Refusal, policy
from lumos_core.federation.owner_pause import Pause
from lumos_core.pages.page import (
    Block,
    Figure,
    Finding,
    Findings,
    Form,
    Page,
    Paragraph,
    Rows,
    Section,
    Table,
)
from lumos_core.privacy import ledger_words as words
from lumos_core.privacy.ledger_report import LedgerReport, RunReport
from lumos_core.recommend.recommender import Recommendation
from lumos_core.serving.newest_model import Served

EXAMPLES = 3
LAST_ITEMS = 4  # of a history, beside an example
CSRF, USER, SURE = "proof", "user", "sure"
"""Names of what forms send: the proof that this page made them, a user's id, a confirmation."""


class ForgettingPlan(Protocol):
    """What forgetting a user means on this node."""

    @property
    def removed(self) -> Sequence[tuple[str, str]]:
        """What is removed: what it is, and what happens to it."""

    @property
    def remains(self) -> Sequence[str]:
        """What cannot be removed."""


@dataclass(frozen=True)
class Sight:
    """All that the page is made of, read at one moment.

    Attributes:
        node: its settings.
        served: data and model in use.
        proof: goes into every form.
        notice: what came of the form that was sent last.
        now: in UTC.
    """

    node: NodeConfig
    served: Served
    proof: str
    notice: Finding | None = None
    now: datetime | None = None


def owner_page(sight: Sight) -> Page:
    """The page."""
    ledger, problem = _ledger(sight.node)
    pause = Pause.of_node(sight.node.state_folder)
    sections = (
        Section("notice", "What you have just done", _notice(sight)),
        Section("now", "Taking part", _taking_part(sight, pause)),
        Section("left", "What left this machine", _left(ledger, problem)),
        Section("privacy", "Under which limits", _limits(sight, ledger)),
        Section("model", "What this machine got for it", list(_model(sight.served))),
        Section("forget", "Forget a user", _forget(sight, ledger)),
    )
    return Page(
        title=_title(sight.node),
        kicker="LUMOS · for the owner of this node",
        lead=_lead(ledger, pause),
        tone="attention" if pause or problem else "good",
        figures=_figures(sight, ledger),
        sections=sections,
        made=f"Made on this machine, {_time(sight.now or datetime.now(UTC))}. Nothing on this page "
        "is sent anywhere.",
    )


def confirmation_page(sight: Sight, user: str, plan: ForgettingPlan) -> Page:
    """What forgetting a user would do, and the button that does it."""
    rows = [[what, text] for what, text in plan.removed]
    nothing = Paragraph("Nothing: this machine's disk holds nothing else of this user.")
    table = Table("Step by step", ("what", "what happens to it"), rows, align="l")
    again = Paragraph("The page before changes nothing: go back if you do not want this.")
    form = Form(
        "/forget", "Forget this user for good", {CSRF: sight.proof, USER: user, SURE: "yes"},
        tone="bad",
    )  # fmt: skip
    return Page(
        title="Forget this user?",
        kicker="LUMOS · for the owner of this node",
        lead="This cannot be undone on this machine. Nothing has been removed so far.",
        tone="attention",
        sections=(
            Section("removed", "What is removed", [table if rows else nothing]),
            Section("remains", "What remains", [Paragraph(text) for text in plan.remains]),
            Section("sure", "Are you sure?", [again, form]),
        ),
        made="Made on this machine. Nothing on this page is sent anywhere.",
    )


# ---------------------------------------------------------------- what matters first
def _ledger(node: NodeConfig) -> tuple[LedgerReport | None, str]:
    try:
        return LedgerReport.of(node.state_folder, node), ""
    except LumosError as error:
        return None, str(error)


def _title(node: NodeConfig) -> str:
    """A node of `lumos run` has no name of its own: its data folder has one."""
    named = node.name != NodeConfig.model_fields["name"].default
    return f"Node {node.name if named else Path(node.data).name}"


def _lead(ledger: LedgerReport | None, pause: Pause | None) -> str:
    paused = "This node is paused: nothing leaves it. " if pause else ""
    if ledger is None:
        return f"{paused}What left this machine cannot be told: its ledger is damaged."
    if not ledger.runs:
        return f"{paused}Nothing has left this machine so far."
    deltas = sum(run.trainings for run in ledger.runs)
    runs = words.count(len(ledger.runs), "run")
    what = words.count(deltas, "model delta") if deltas else "no model delta, only short answers,"
    return (
        f"{paused}{runs} got {what} from this machine. Histories stay here: what leaves is how a "
        "model should change, and agreed counts."
    )


def _figures(sight: Sight, ledger: LedgerReport | None) -> list[Figure]:
    users = len(sight.served.histories.users)
    found = [Figure("Users on this node", f"{users:,}", "they never leave")]
    if ledger is None:
        return found
    sent = sum(run.bytes for run in ledger.runs)
    found += [
        Figure("Deltas sent", f"{sum(run.trainings for run in ledger.runs):,}"),
        Figure("Sent in all", _bytes(sent)),
    ]
    counted = ledger.spent.trainings - ledger.spent.uncounted
    if counted:
        limit = f"of at most {ledger.total_limit:g}" if ledger.total_limit else "no limit set"
        found.append(Figure("ε so far", words.shown_epsilon(ledger.epsilon), limit))
    elif ledger.spent.trainings:
        found.append(Figure("ε so far", "no bound", "no noise that this node can be sure of"))
    return found


# ---------------------------------------------------------------- sections
def _notice(sight: Sight) -> list[Block]:
    return [Findings([sight.notice])] if sight.notice else []


def _taking_part(sight: Sight, pause: Pause | None) -> list[Block]:
    hidden = {CSRF: sight.proof}
    found: list[Block] = []
    if pause is None:
        found += [
            Paragraph(
                "The node takes part in runs whenever it is started and a server asks. While it is "
                "paused it stays connected, answers that it is paused, and sends nothing else."
            ),
            Form("/pause", "Pause this node", hidden),
        ]
    else:
        since = f" since {_time(datetime.fromtimestamp(pause.since, UTC))}" if pause.since else ""
        found += [
            Paragraph(f"Paused{since}. The pause outlasts restarts.", "attention"),
            Form("/resume", "Resume", hidden),
        ]
    refusal = Refusal.of_node(sight.node.state_folder)
    if refusal is not None and refusal.sentences:
        when = _time(datetime.fromtimestamp(refusal.time, UTC))
        items = [Finding(text, f"The last refusal, {when}.") for text in refusal.sentences]
        found.append(Findings(items))
    return found


def _left(ledger: LedgerReport | None, problem: str) -> list[Block]:
    if ledger is None:
        return [Findings([Finding(problem, "Nothing leaves while it cannot be written.", "bad")])]
    if not ledger.runs:
        return [Paragraph("The ledger is empty: this node has not answered any server yet.")]
    header = ("run", "when", "deltas", "other answers", "bytes", "privacy", "ε for a user")
    rows = [_run(run, ledger.delta) for run in reversed(ledger.runs)]
    note = (
        "Other answers: the node's name and versions, sums of metrics, and error codes. 'lumos "
        "node ledger' says the same; the ledger itself has every record."
    )
    totals = [Paragraph(f"{text[0].upper()}{text[1:]}.") for text in words.totals(ledger)]
    return [*totals, Table("Run by run", header, rows, align="llrrrl", note=note)]


def _run(run: RunReport, delta: float) -> list[str]:
    return [
        run.run[:12],
        f"{words.days(run)}{words.rounds(run)}",
        f"{run.trainings:,}",
        f"{run.others + run.errors:,}",
        f"{run.bytes:,}",
        words.privacy(run),
        words.epsilon(run, delta),
    ]


def _limits(sight: Sight, ledger: LedgerReport | None) -> list[Block]:
    rows = [[key, str(limit["means"])] for key, limit in policy(sight.node).items()]
    table = Table(
        "The owner's floor: no run can go below it", ("key", "what it means"), rows, align="l",
        note="They are keys of node.toml; the node follows a change from the next message on.",
    )  # fmt: skip
    texts = words.limits(ledger) if ledger is not None else []
    return [*(Paragraph(f"{text[0].upper()}{text[1:]}.") for text in texts), table]


def _model(served: Served) -> Iterator[Block]:
    if served.version is None or served.recommender is None:
        yield Paragraph(
            "No model yet: the node keeps one after its first round of training, unless keep-model "
            "= false. The log of this program says what it found."
        )
        return
    when = _time(datetime.fromtimestamp(served.version.written, UTC))
    yield Paragraph(
        f"In use: {served.version.text}, kept {when}. It recommends on this machine; nobody else "
        "sees for whom."
    )
    users, catalog = served.histories.users, served.histories.catalog
    shown = [row for row in range(len(users)) if len(users[row])][:EXAMPLES]
    for number, row in enumerate(shown, start=1):
        found = served.recommender.for_user(users[row], top=1)
        if found:
            yield _example(number, users[row], found[0], catalog)


def _example(number: int, history: Items, best: Recommendation, catalog: Catalog) -> Rows:
    last = [catalog.title(int(item)) for item in history[-LAST_ITEMS:]]
    because = [reason.title for reason in best.reasons]
    return Rows(
        f"Example {number}: one of your users",
        [
            ("their last items", " · ".join(last)),
            ("what comes first", best.title),
            ("because of", " · ".join(because) or "no single item of the history"),
        ],
    )


def _forget(sight: Sight, ledger: LedgerReport | None) -> list[Block]:
    found: list[Block] = [
        Paragraph(
            "Removes a user from this machine's disk: data, views, caches, kept models. You see "
            "what would be removed, and what cannot be, before anything is. The node must not be "
            "running."
        ),
        Form("/forget", "Show what would be removed", {CSRF: sight.proof}, USER, "The user's id"),
    ]
    if ledger is not None and ledger.forgotten:
        rows = [[words.day(line.time), words.forgotten(line)] for line in ledger.forgotten]
        found.append(Table("Forgotten so far", ("day", "who"), rows, align="l"))
    return found


# ---------------------------------------------------------------- numbers
def _time(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
