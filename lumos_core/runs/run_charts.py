"""The curves of a run, from the events of its history."""

from collections.abc import Callable, Sequence

from lumos_core.pages.charts import Chart, Line, Point, line_chart
from lumos_core.runs.history import Event, value_of

_MEGABYTE = 1e6


def run_charts(events: Sequence[Event]) -> list[Chart]:
    """Quality on validation, loss, seconds, bytes, nodes and ε, by round; those that there are."""
    trained = [e for e in events if e["event"] == "round"]
    attempts = [e for e in events if e["event"] in ("round", "failed-round")]
    validation = [e for e in events if e["event"] == "evaluation" and e["split"] == "validation"]
    best = max(validation, key=value_of, default=None)
    charts = [
        line_chart(
            f"{name}, validation", [Line(name, _points(validation, key))], "{:.3f}",
            mark=None if best is None else (best["round"], best[key]),
            note="" if best is None else f"The dot is round {best['round']}, the best one.",
        )
        for name, key in (("HR@20", "hr@20"), ("NDCG@20", "ndcg@20"))
    ]  # fmt: skip
    charts += [
        line_chart("Training loss", [Line("loss", _points(trained, "loss"))], "{:.2f}"),
        line_chart(
            "Seconds a round", [Line("seconds", _points(attempts, "seconds"))], from_zero=True
        ),
        line_chart("MB a round", _traffic(attempts), from_zero=True),
        line_chart("Nodes a round", _nodes(attempts), from_zero=True),
        line_chart("ε so far", [Line("ε", _points(events, "epsilon"))], from_zero=True),
    ]
    return [chart for chart in charts if chart is not None]


def _points(
    events: Sequence[Event], key: str, value: Callable[[float], float] = float
) -> list[Point]:
    return [(e["round"], value(e[key])) for e in events if e.get(key) is not None]


def _traffic(attempts: Sequence[Event]) -> list[Line]:
    names = {"from nodes": "bytes_up", "to nodes": "bytes_down"}
    return [
        Line(name, _points(attempts, key, lambda v: v / _MEGABYTE)) for name, key in names.items()
    ]


def _nodes(attempts: Sequence[Event]) -> list[Line]:
    lines = [Line("used", _points(attempts, "nodes_ok"))]
    failed = [(e["round"], float(len(e["failed"]))) for e in attempts]
    return [*lines, Line("failed", failed)] if any(y for _, y in failed) else lines
