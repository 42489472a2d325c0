"""``report.html``: the report of a run as one page, for people who would rather look than read."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.filesize import decimal

from lumos_core import __version__
from lumos_core.config import RunConfig
from lumos_core.errors import LumosError
from lumos_core.pages.page import (
    Bar,
    Cell,
    Charts,
    Figure,
    Finding,
    Findings,
    Page,
    Paragraph,
    Rows,
    Section,
    Table,
    Tone,
    render,
)
from lumos_core.runs import node_metrics, troubles
from lumos_core.runs.attendance import ATTENDANCE, Attendance
from lumos_core.runs.history import HISTORY, Event, read_history, utc_now
from lumos_core.runs.report import CENTRALISED, REPORTED_METRICS, Row
from lumos_core.runs.run_charts import run_charts
from lumos_core.runs.saved_config import CONFIG, SavedConfig
from lumos_core.runs.status import NodeStatus, failures_of, nodes_of
from lumos_core.runs.summary import RunSummary
from lumos_core.safe_files import write_atomically
from lumos_core.terminal.progress import duration

PAGE = "report.html"
MOST_ROUNDS = 200
"""Rows of the table of rounds; a longer run shows every so many rounds, and those that failed."""
OPEN_NODES = 12
"""Nodes whose table is open from the start."""
NO_VALUE = "–"


@dataclass(frozen=True)
class Example:
    """A user of the demo data with the views that were written of the history, as titles."""

    user: str
    rows: Sequence[tuple[str, str]]


def write_page(
    run_dir: Path, summary: RunSummary, rows: Sequence[Row], examples: Sequence[Example] = ()
) -> Path:
    """Write ``report.html`` into the run folder; returns its path.

    Args:
        run_dir: the run's folder.
        summary: how the run ended.
        rows: the methods of the comparison; none if the run failed.
        examples: users of the demo data. Never of other data: the page is made to be shown.

    Raises:
        DataError: the history is damaged.
    """
    saved = SavedConfig.read_if_there(run_dir / CONFIG)
    config = saved.run if saved is not None and saved.run is not None else {}
    attendance = Attendance.read_if_sound(run_dir / ATTENDANCE) or Attendance()
    events = read_history(run_dir / HISTORY)
    page = run_page(summary, rows, events, config, examples, attendance.refused)
    path = run_dir / PAGE
    write_atomically(path, render(page).encode(errors="replace"))
    return path


def write_failed_page(run_dir: Path, summary: RunSummary) -> None:
    """Write ``report.html`` of a run that failed. What prevents that is not reported: why the run
    failed matters more."""
    with suppress(LumosError, OSError):
        write_page(run_dir, summary, [])


def run_page(
    summary: RunSummary,
    rows: Sequence[Row],
    events: Sequence[Event],
    config: Mapping[str, Any],
    examples: Sequence[Example] = (),
    refused: Mapping[str, str] = MappingProxyType({}),
) -> Page:
    """The page of a run that has ended.

    Args:
        summary: how it ended.
        rows: the methods of the comparison.
        events: its history.
        config: its flat configuration; empty if it is not known.
        examples: users of the demo data with their views.
        refused: nodes that were refused in the end, by name, and why.
    """
    nodes = nodes_of(events)
    return Page(
        title=f"{summary.method or 'A run'}, seed {summary.seed}",
        kicker="LUMOS · report of a run",
        lead=lead(summary, rows),
        tone=_tone(summary),
        figures=_figures(summary, nodes, events),
        sections=(
            Section("results", "What it reached", _results(rows)),
            Section("failures", "What failed, and what to do", failures(events, summary, refused)),
            Section("curves", "Round by round", _curves(events)),
            Section("nodes", "Nodes", [*node_tables(nodes, events), *by_node(events)]),
            Section("privacy", "What left the nodes", privacy(config, summary)),
            Section("views", "Views that the language model wrote", _views(examples)),
            Section("configuration", "Configuration", configuration(config)),
        ),
        made=made(summary.versions),
    )


def made(versions: Mapping[str, str]) -> str:
    """The last line of a page: what wrote it, when, and with what."""
    others = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    when = utc_now()[:16].replace("T", " ")
    text = f"Written by LUMOS {__version__} at {when} UTC. This page fetches nothing."
    return f"{text} The run used {others}." if others else text


# ---------------------------------------------------------------- what matters first
def lead(summary: RunSummary, rows: Sequence[Row]) -> str:
    """The sentences that matter first."""
    took = f"{summary.rounds} rounds in {duration(summary.seconds)}"
    if summary.outcome == "failed":
        return f"This run failed after {took}: {summary.reason or 'no reason is known'}."
    sentences = [f"Completed {took}."]
    if summary.reason:
        sentences.append(f"It ended early: {summary.reason}.")
    if "hr@20" in summary.test:
        found = (
            f"The model of round {summary.best_round} has a user's next item among its first 20 "
            f"suggestions for {summary.test['hr@20']:.1%} of users"
        )
        central = next((row for row in rows if row.name == CENTRALISED), None)
        share = rows[0].share_of(central) if rows else None
        against = "" if share is None else (
            f", {share:.0%} of what training on all data in one place reaches"
        )  # fmt: skip
        sentences.append(f"{found}{against}.")
    if summary.views is not None and not summary.views.complete:
        sentences.append(
            f"Views were missing in {summary.views.rounds_lacking} of {summary.views.rounds} "
            "rounds, so these are not the figures of the whole method."
        )
    return " ".join(sentences)


def _tone(summary: RunSummary) -> Tone:
    if summary.outcome == "failed":
        return "bad"
    lacking = summary.views is not None and not summary.views.complete
    return "attention" if lacking or summary.reason else "good"


def _figures(
    summary: RunSummary, nodes: Sequence[NodeStatus], events: Sequence[Event]
) -> list[Figure]:
    figures = [
        Figure(name, f"{summary.test[key]:.4f}", "on test")
        for name, key in (("HR@20", "hr@20"), ("NDCG@20", "ndcg@20"))
        if key in summary.test
    ]
    figures.append(Figure("Rounds", f"{summary.rounds}", f"best: {summary.best_round}"))
    users = max((e.get("users", 0) for e in events if e["event"] == "round"), default=0)
    figures.append(Figure("Nodes", f"{len(nodes)}", f"{users:,} users in a round"))
    figures.append(Figure("From nodes", decimal(summary.bytes_up), "deltas"))
    figures.append(Figure("To nodes", decimal(summary.bytes_down), "models"))
    if summary.epsilon is not None:
        figures.append(Figure("ε", f"{summary.epsilon:.3g}", "differential privacy"))
    return figures


# ---------------------------------------------------------------- sections
def _results(rows: Sequence[Row]) -> list[Table]:
    if not rows:
        return []
    central = next((row for row in rows if row.name == CENTRALISED), None)
    most = max((row.metrics["hr@20"] for row in rows), default=0.0) or 1.0
    table: list[list[Cell]] = []
    for row in rows:
        hits, share = row.metrics["hr@20"], row.share_of(central)
        others = [f"{row.metrics[m]:.4f}" for m in REPORTED_METRICS if m != "hr@20"]
        of_central = NO_VALUE if share is None else f"{share:.0%}"
        table.append([row.name, Bar(f"{hits:.4f}", hits / most), *others, of_central])
    names = [m.upper() for m in REPORTED_METRICS if m != "hr@20"]
    header = ["method", "HR@20", *names, "HR@20 of centralised"]
    return [Table("Methods on the test items", header, table, align="llr")]


def failures(
    events: Sequence[Event],
    summary: RunSummary | None = None,
    refused: Mapping[str, str] = MappingProxyType({}),
) -> list[Findings]:
    """What failed, who was refused, and what to do; a sentence too if nothing went wrong. Where
    each client is one user, no client is named."""
    named = not single_users(events)
    found = [t for t in troubles.troubles_of(failures_of(events)) if named or not t.node]
    items = [
        Finding(t.sentence(), t.advice(), "attention" if t.node else "bad")
        for t in found[: troubles.SHOWN]
    ]
    items += troubles.refusals(refused) if named else []
    if more := troubles.left_out(found):
        items.append(Finding(more, "", "plain"))
    if summary is not None and summary.views is not None and summary.views.sentence():
        items.append(Finding(summary.views.sentence(), ""))
    if summary is not None and summary.outcome == "failed" and not items:
        advice = "Look at logs/server.log in the run's folder; the same command resumes the run."
        items.append(Finding(f"The run failed: {summary.reason}.", advice, "bad"))
    if not items:
        items.append(Finding("Nothing failed: every node that was asked answered.", "", "good"))
    return [Findings(items)]


def _curves(events: Sequence[Event]) -> list[Charts | Table]:
    charts, table = run_charts(events), rounds_table(events)
    return [*([Charts(charts)] if charts else []), *([table] if table else [])]


def rounds_table(events: Sequence[Event]) -> Table | None:
    """The rounds in numbers; None if there was none."""
    validation = {
        e["round"]: e for e in events if e["event"] == "evaluation" and e["split"] == "validation"
    }
    rounds = [e for e in events if e["event"] in ("round", "failed-round")]
    if not rounds:
        return None
    every = -(-len(rounds) // MOST_ROUNDS)
    chosen = [
        event for n, event in enumerate(rounds, start=1)
        if n == 1 or n % every == 0 or n == len(rounds)
    ]  # fmt: skip
    title = "Rounds in numbers" if every == 1 else f"Rounds in numbers, every {every}th"
    header = ["round", "loss", "HR@20", "NDCG@20", "seconds", "from nodes", "to nodes", "used",
              "failed"]  # fmt: skip
    note = "" if every == 1 else f"{HISTORY} has all {len(rounds):,}."
    rows = [_round_cells(event, validation) for event in chosen]
    return Table(title, header, rows, folded=True, note=note)


def _round_cells(event: Event, validation: Mapping[int, Event]) -> list[str]:
    number, loss = event["round"], event.get("loss")
    trained = event["event"] == "round"
    metrics = validation.get(number) if trained else None
    return [
        f"{number}" if trained else f"{number} (failed)",
        NO_VALUE if loss is None else f"{loss:.4f}",
        *(f"{metrics[m]:.4f}" if metrics else NO_VALUE for m in ("hr@20", "ndcg@20")),
        f"{event['seconds']:.1f}",
        decimal(event["bytes_up"]),
        decimal(event["bytes_down"]),
        f"{event['nodes_ok']}",
        f"{len(event['failed'])}",
    ]


def node_tables(nodes: Sequence[NodeStatus], events: Sequence[Event]) -> list[Table | Paragraph]:
    """How often each node took part; nothing about single ones if each is one user."""
    if not nodes:
        return []
    if single_users(events):
        return [Paragraph("Each client of this run is one user: nothing is shown by client.")]
    rounds = max(sum(e["event"] == "round" for e in events), 1)
    reasons = {f["node"]: f["reason"] for f in failures_of(events)}
    ordered = sorted(nodes, key=lambda n: (-n.failures, n.name))
    rows: list[list[Cell]] = [
        [
            node.name,
            Bar(f"{node.rounds} of {rounds}", min(node.rounds / rounds, 1.0)),
            NO_VALUE if node.last_round < 0 else f"{node.last_round}",
            node.last_seen[:19].replace("T", " ") or NO_VALUE,
            f"{node.failures}",
            node.note or reasons.get(node.name, ""),
        ]
        for node in ordered
    ]
    header = ["node", "rounds used", "last round", "last seen (UTC)", "failures", "last reason"]
    title = "How often each node took part"
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    tables: list[Table | Paragraph] = [Table(title, header, rows[:OPEN_NODES], align="llrrrl")]
    if more := rows[OPEN_NODES:]:
        tables.append(Table(f"{len(more)} more nodes", header, more, folded=True, align="llrrrl"))
    return tables


def by_node(events: Sequence[Event]) -> list[Table]:
    """The test metrics of single nodes, if the history says so; of nodes with a few users it does
    not."""
    sentences, table = node_metrics.section(events)
    if not table or single_users(events):
        return []
    header, *rows = table
    return [Table("The best model by node", header, rows, note=" ".join(sentences))]


def single_users(events: Sequence[Event]) -> bool:
    """Whether every client of the run is one user: then a client's figures are a user's."""
    trained = [e for e in events if e["event"] == "round" and e.get("users")]
    return bool(trained) and all(e["users"] <= e["nodes_ok"] for e in trained)


_KINDS = {
    "central": "Noise is added by the server, which sees deltas before: it hides whether a node "
    "took part.",
    "distributed": "Each node adds a part of the noise: the sum hides whether a node took part.",
    "user": "Each node adds noise for its users: it hides any single user of a node.",
}


def privacy(config: Mapping[str, Any], summary: RunSummary) -> list[Paragraph]:
    """What left the nodes, and under which protection."""
    if not config:
        return []
    noise = str(config.get("dp", "none"))
    secure = bool(config.get("secure-aggregation"))
    left = (
        f"Histories and views stayed on the nodes. {decimal(summary.bytes_up)} of changes to the "
        "model and sums for its evaluation left them."
    )
    sums = (
        "With secure aggregation the server saw sums over nodes only, never a single node's change."
        if secure
        else "The server saw each node's change: there was no secure aggregation."
    )
    paragraphs = [Paragraph(f"{left} {sums}")]
    if noise == "none":
        paragraphs.append(Paragraph("There was no differential privacy (dp = none)."))
    else:
        spent = "no finite ε" if summary.epsilon is None else f"ε = {summary.epsilon:.3g}"
        delta = float(config.get("dp-delta", 0.0))
        text = f"Differential privacy of the kind {noise}: {spent} at δ = {delta:g}."
        paragraphs.append(Paragraph(f"{text} {_KINDS.get(noise, '')}".strip()))
    return paragraphs


def _views(examples: Sequence[Example]) -> list[Paragraph | Rows]:
    if not examples:
        return []
    about = (
        "From a history the node's own language model writes what may come next (future), the same "
        "taste in other items (paraphrase) and another taste (counterfactual). These are customers "
        "of the data that ship with LUMOS; users of other data are never shown here."
    )
    return [Paragraph(about), *(Rows(f"Customer {e.user}", e.rows) for e in examples)]


def configuration(config: Mapping[str, Any]) -> list[Table | Paragraph]:
    """What the run changed, and all its keys. Paths of the machine stay out: a report travels."""
    keys = {k: v for k, v in config.items() if k not in ("catalog", "run-dir")}
    if not keys:
        return []
    defaults: Mapping[str, Any] = RunConfig().to_flat()
    changed = [k for k in keys if k not in defaults or defaults[k] != keys[k]]
    rows = [[k, shown(keys[k]), shown(defaults.get(k, ""))] for k in sorted(changed)]
    blocks: list[Table | Paragraph] = [
        Table("Changed from the defaults", ["key", "value", "default"], rows, align="l")
        if rows
        else Paragraph("Every key has its default.")
    ]
    everything = [[key, shown(keys[key])] for key in sorted(keys)]
    blocks.append(
        Table(f"All {len(keys)} keys", ["key", "value"], everything, folded=True, align="l")
    )
    return blocks


def shown(value: Any) -> str:
    """A value of the configuration as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value) or NO_VALUE
