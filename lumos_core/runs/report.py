"""The report of a run for people: a comparison table and ``report.md``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lumos_core.runs.history import HISTORY, WARM_START, Event, read_history
from lumos_core.runs.node_metrics import section
from lumos_core.runs.summary import RunSummary
from lumos_core.runs.view_coverage import NOT_COMPLETE
from lumos_core.safe_files import write_atomically
from lumos_core.terminal.tables import markdown_table

REPORTED_METRICS = ("hr@10", "hr@20", "ndcg@20", "mrr")
CENTRALISED = "centralised SASRec"


@dataclass(frozen=True)
class Row:
    """A line of the comparison: test metrics of one method."""

    name: str
    metrics: Mapping[str, float]

    def share_of(self, other: "Row | None") -> float | None:
        """HR@20 as a fraction of another row's."""
        base = other.metrics["hr@20"] if other else 0.0
        return self.metrics["hr@20"] / base if base else None


def cells(rows: list[Row]) -> list[list[str]]:
    """Header and lines of the comparison as text."""
    reference = next((row for row in rows if row.name == CENTRALISED), None)
    table = [["test", *(m.upper() for m in REPORTED_METRICS), "HR@20 of centralised"]]
    for row in rows:
        share = row.share_of(reference)
        metrics = [f"{row.metrics[m]:.4f}" for m in REPORTED_METRICS]
        table.append([row.name, *metrics, "–" if share is None else f"{share:.0%}"])
    return table


def write_report(run_dir: Path, summary: RunSummary, rows: list[Row]) -> Path:
    """Write ``report.md`` into the run folder, with the nodes and rounds of its history; returns
    its path."""
    events = read_history(run_dir / HISTORY)
    lines = [
        f"# {summary.method}, seed {summary.seed}: {summary.outcome}",
        "",
        f"{summary.rounds} rounds in {summary.seconds:.0f} s; {_result(summary)}. "
        f"{summary.bytes_up:,} bytes went up, {summary.bytes_down:,} down.",
        *_start(events),
        *_privacy(summary),
        *_views(summary),
        "",
        *([_markdown(cells(rows))] if rows else []),
        *_nodes(events),
        "## Rounds",
        "",
        _markdown(_rounds(events)),
    ]
    path = run_dir / "report.md"
    write_atomically(path, "\n".join(lines).encode())
    return path


def _result(summary: RunSummary) -> str:
    if summary.validation:
        return f"the model of round {summary.best_round} was best on validation"
    return "the last model is the result, as nothing has measured it"


def untested(summary: RunSummary) -> str:
    """What a run without test metrics says about its result."""
    if not summary.validation:
        return f"round {summary.best_round} is the last; nothing has measured it"
    value = summary.validation["hr@20"]
    return f"round {summary.best_round} is best, validation HR@20 {value:.4f}; there was no test"


def _start(events: Sequence[Event]) -> list[str]:
    """Where the run's first model is from, if it was trained before."""
    found = (e for e in events if e["event"] == WARM_START)
    return [
        f"It began with the model of round {e['of_round']} of {e['from']} (digest {e['model']})."
        for e in found
    ]


def _privacy(summary: RunSummary) -> list[str]:
    if summary.epsilon is None:
        return []
    return ["", f"Differential privacy: ε = {summary.epsilon:.3g}. {summary.reason}".rstrip()]


def _views(summary: RunSummary) -> list[str]:
    found = summary.views
    return ["", f"**{found.sentence()}**"] if found is not None and found.sentence() else []


def federated_row(summary: RunSummary) -> Row:
    """The run's own line of the comparison; its name says so if views were missing."""
    note = f" ({NOT_COMPLETE})" if summary.views is not None and not summary.views.complete else ""
    return Row(f"federated {summary.method}{note}", summary.test)


def _nodes(events: Sequence[Event]) -> list[str]:
    """How the test metrics are spread over nodes, if the history says so."""
    sentences, table = section(events)
    return ["## Nodes", "", *sentences, "", _markdown(table)] if table else []


def _rounds(events: Sequence[Event]) -> list[list[str]]:
    validation = {
        e["round"]: e for e in events if e["event"] == "evaluation" and e["split"] == "validation"
    }
    table = [["round", "loss", "HR@20", "NDCG@20", "seconds", "bytes up", "bytes down", "nodes"]]
    for event in events:
        if event["event"] in ("round", "failed-round"):
            number, loss = event["round"], event.get("loss")
            metrics = validation.get(number) if event["event"] == "round" else None
            table.append(
                [
                    str(number) if event["event"] == "round" else f"{number} (failed)",
                    "–" if loss is None else f"{loss:.4f}",
                    *(f"{metrics[m]:.4f}" if metrics else "–" for m in ("hr@20", "ndcg@20")),
                    f"{event['seconds']:.1f}",
                    f"{event['bytes_up']:,}",
                    f"{event['bytes_down']:,}",
                    str(event["nodes_ok"]),
                ]
            )
    return table


def _markdown(table: list[list[str]]) -> str:
    header, *rows = table
    return markdown_table(header, rows)
