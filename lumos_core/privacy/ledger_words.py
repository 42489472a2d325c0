"""What a node's ledger says, in plain words: for its owner's terminal and page."""

from lumos_core.privacy.ledger_report import Forgotten, LedgerReport, RunReport
from lumos_core.privacy.node_budget import RUNS

_HIDES = {
    "central": "its server adds the noise, if it does: a node cannot count ε",
    "distributed": "each node adds a part of the noise; whole nodes are protected",
    "user": "each user of the node is protected",
}


def days(run: RunReport) -> str:
    """The day or days on which a run got replies."""
    first, last = day(run.first), day(run.last)
    return first if first == last else f"{first} to {last}"


def rounds(run: RunReport) -> str:
    """The rounds that a run has trained on this node in, after a comma; empty if none."""
    if run.rounds is None:
        return ""
    first, last = run.rounds
    return f", round {first}" if first == last else f", rounds {first} to {last}"


def privacy(run: RunReport) -> str:
    """Under which privacy a run got its deltas."""
    if run.dp is None:
        return "not noted (nothing of the run was known, or an older LUMOS wrote the ledger)"
    seen = (
        "secure aggregation: the server saw sums of several nodes only"
        if run.secure_aggregation
        else "no secure aggregation: the server saw each delta"
    )
    if run.dp == "none":
        return f"no differential privacy (dp = none); {seen}"
    if not run.protected:
        noise = "its noise is from a public seed" if run.public_noise else "it has no noise"
        return f"dp = {run.dp}, but {noise}, so that it hides nothing; {seen}"
    return f"dp = {run.dp}, noise {run.noise:g} times dp-clip ({_HIDES[run.dp]}); {seen}"


def epsilon(run: RunReport, delta: float) -> str:
    """What a run has cost a user of the node."""
    if run.epsilon is not None:
        trainings = count(run.counted or 0, "training")
        return f"{run.epsilon:.3g} (δ = {delta:g}) in {trainings}, for a user of this node"
    if run.counted is None and run.trainings:
        return f"not listed by itself (only the last {RUNS} runs are); it is part of the sum below"
    if not run.trainings and not run.counted:
        return "0: no delta was sent"
    return "no bound: a node cannot count it here"


def totals(found: LedgerReport) -> list[str]:
    """What all runs together got, and cost."""
    spent = found.spent
    runs = found.runs
    replies = sum(run.trainings + run.others + run.errors for run in runs)
    told = "reply" if replies == 1 else "replies"
    sent = sum(run.bytes for run in runs)
    counted = spent.trainings - spent.uncounted
    texts = [f"{count(len(runs), 'run')}, {replies:,} {told}, {sent:,} bytes"]
    if counted:
        texts.append(
            f"ε = {shown_epsilon(found.epsilon)} (δ = {found.delta:g}) in "
            f"{count(counted, 'training')}, for a user of this node, by one accountant over all "
            "runs"
        )
    if spent.uncounted:
        texts.append(
            f"{count(spent.uncounted, 'training')} of which a node cannot count ε (dp = none or "
            "central, or no secret noise): what they gave away has no bound"
        )
    return texts


def limits(found: LedgerReport) -> list[str]:
    """The owner's limits of ε, and what they leave."""
    texts = []
    if found.left is not None:
        texts.append(f"limit max-total-epsilon = {found.total_limit:g}: {found.left:.3g} is left")
    if found.run_limit:
        texts.append(f"limit max-run-epsilon = {found.run_limit:g}, for each run")
    return texts or ["the owner has set no limit of ε (max-total-epsilon, max-run-epsilon)"]


def forgotten(line: Forgotten) -> str:
    """Who was forgotten, without names."""
    if not line.users:
        return "what was made from users who were not in the data any more"
    return f"{count(line.users, 'user')} with {count(line.interactions, 'interaction')}"


def count(number: int, what: str) -> str:
    """A number of things."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def day(time: str) -> str:
    """The day of a time of the ledger."""
    return time.partition("T")[0]


def shown_epsilon(epsilon: float | None) -> str:
    """ε as an owner sees it; None: it has no bound."""
    return "no bound" if epsilon is None else f"{epsilon:.3g}"
