"""The results of `lumos compare` as one page: how good, what each part adds, curves, rarity, cost.

It says the same as the tables of :mod:`~lumos_core.experiments.comparison.comparison_table`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

from lumos_core.experiments.comparison.comparison_table import (
    COST_HEADER,
    SPREAD_HEADER,
    SUGGESTIONS_HEADER,
    Comparison,
    cost_rows,
    relative_differences,
    suggestion_rows,
)
from lumos_core.experiments.comparison.curves_picture import federated
from lumos_core.experiments.comparison.fairness import LENGTHS
from lumos_core.experiments.comparison.parts import PARTS
from lumos_core.experiments.comparison.rarity import CLASSES, CountClass, Floats
from lumos_core.experiments.comparison.variants import UNFEDERATED
from lumos_core.experiments.results_file import Result
from lumos_core.pages.charts import Chart, Line, line_chart
from lumos_core.pages.page import (
    Bar,
    Cell,
    Charts,
    Figure,
    Page,
    Paragraph,
    Section,
    Span,
    Table,
    Tone,
)
from lumos_core.runs.report_page import NO_VALUE, configuration, made


@dataclass(frozen=True)
class Reach:
    """A relative difference, and how far it reaches.

    Attributes:
        text: the same in numbers.
        certain: whether the ends are a 95 % interval, and not those of single seeds.
    """

    value: float
    low: float
    high: float
    text: str
    certain: bool

    @property
    def tone(self) -> Tone:
        """Better, worse, or neither for certain."""
        if not self.certain:
            return "plain"
        return "good" if self.low > 0 else "bad" if self.high < 0 else "plain"


def comparison_page(results: Sequence[Result], reference: str, data: str) -> Page:
    """The page.

    Args:
        results: results of `lumos compare`, not none.
        reference: the variant that the others are compared with.
        data: name of the data.
    """
    comparison = Comparison.of(results, reference)
    first = next(iter(comparison.groups.values()))[0]
    seeds = {r["seed"] for group in comparison.groups.values() for r in group}
    return Page(
        title=f"Comparison on {data}",
        kicker="LUMOS · methods under equal conditions",
        lead=_lead(comparison),
        figures=_figures(comparison, first, len(seeds)),
        sections=(
            Section("quality", "How good they are", _quality(comparison)),
            Section("parts", "What each part adds", _parts(comparison)),
            Section("curves", "Round by round", _curves(results)),
            Section("rarity", "By rarity of the target, and whom it serves", _classes(comparison)),
            Section("cost", "What a run costs", [_cost(comparison)]),
            Section("configuration", "Configuration in common", configuration(first["config"])),
        ),
        made=made(first.get("versions", {})),
    )


def reach(comparison: Comparison, name: str, metric: str) -> Reach | None:
    """A variant against the reference; None without a seed in common, or for the reference."""
    if name == comparison.reference:
        return None
    text = comparison.difference(name, metric)
    found = comparison.interval(name, metric)
    if found is not None:
        value, low, high = found.test
        return Reach(value, low, high, text, True)
    base = comparison.groups.get(comparison.reference, [])
    values = relative_differences(comparison.groups[name], base, metric)
    known = [v for v in values if abs(v) < float("inf")]
    return Reach(mean(known), min(known), max(known), text, False) if known else None


# ---------------------------------------------------------------- what matters first
def _means(comparison: Comparison, metric: str = "hr@20") -> dict[str, float]:
    return {n: mean(r["test"][metric] for r in g) for n, g in comparison.groups.items()}


def _lead(comparison: Comparison) -> str:
    means = _means(comparison)
    best = max(means, key=lambda name: means[name])
    text = (
        f"{best} is best: a user's next item is among its first 20 suggestions for "
        f"{means[best]:.1%} of users."
    )
    found = reach(comparison, best, "hr@20")
    if found is None:
        return text
    against = f"Against {comparison.reference} that is {found.value:+.1%}"
    if not found.certain:
        return f"{text} {against}, by the mean over seeds."
    ends = f"95 % interval: {100 * found.low:+.1f} to {100 * found.high:+.1f} %"
    if found.tone == "plain":
        return f"{text} {against}, which is not certain ({ends})."
    return f"{text} {against} ({ends})."


def _figures(comparison: Comparison, first: Result, seeds: int) -> list[Figure]:
    figures = [Figure("Variants", f"{len(comparison.groups)}", f"{seeds} seeds")]
    for label, key in (("Users", "users"), ("Nodes", "nodes")):
        if isinstance(first.get(key), int):
            figures.append(Figure(label, f"{first[key]:,}"))
    means = _means(comparison)
    best = max(means, key=lambda name: means[name])
    figures.append(Figure("Best HR@20", f"{means[best]:.4f}", best))
    return figures


# ---------------------------------------------------------------- sections
def _quality(comparison: Comparison) -> list[Table]:
    means = _means(comparison)
    most = max(means.values()) or 1.0
    reaches = {name: reach(comparison, name, "hr@20") for name in comparison.groups}
    spans = spans_of(reaches)
    rows: list[list[Cell]] = [
        [
            comparison.marked(name),
            Bar(comparison.mean(name, "hr@20"), means[name] / most),
            comparison.mean(name, "ndcg@20"),
            spans.get(name, NO_VALUE),
        ]
        for name in comparison.groups
    ]
    header = ["variant", "HR@20", "NDCG@20", f"HR@20 against {comparison.reference}"]
    return [Table("On the test items", header, rows, align="llrl", note=_note(reaches.values()))]


def _note(reaches: Iterable[Reach | None]) -> str:
    if any(r is not None and r.certain for r in reaches):
        return (
            "Means ± standard deviation over seeds. Lines are 95 % intervals of the relative "
            "difference, from a paired bootstrap over users and seeds. † A run ended at its cap."
        )
    return (
        "Means ± standard deviation over seeds. Lines reach from the lowest to the highest seed: "
        "these results have no ranks of users, so there are no intervals."
    )


def spans_of(reaches: Mapping[str, Reach | None]) -> dict[str, Span]:
    """The differences on one scale."""
    known = {name: r for name, r in reaches.items() if r is not None}
    if not known:
        return {}
    low = min(0.0, *(r.low for r in known.values()))
    high = max(0.0, *(r.high for r in known.values()))
    margin = 0.04 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def at(value: float) -> float:
        return (value - low) / (high - low)

    return {
        name: Span(r.text, at(r.low), at(r.value), at(r.high), at(0.0), r.tone)
        for name, r in known.items()
    }


def _parts(comparison: Comparison) -> list[Table | Paragraph]:
    """For each method of which variants without a part are there: what the part adds."""
    found = (_parts_of(comparison, method) for method in PARTS)
    tables = [table for table in found if table is not None]
    if not tables:
        return []
    about = (
        "The method against itself without one part, in HR@20 on test: what lies right of zero, "
        "the part adds."
    )
    return [Paragraph(about), *tables]


def _parts_of(comparison: Comparison, method: str) -> Table | None:
    if method not in comparison.groups:
        return None
    without = [name for name in PARTS[method] if name in comparison.groups]
    reaches = {
        name: reach(replace(comparison, reference=name), method, "hr@20") for name in without
    }
    spans = spans_of(reaches)
    rows: list[list[Cell]] = [
        [PARTS[method][name], spans[name], name] for name in without if name in spans
    ]
    header = ["part", "what it adds", "compared with"]
    return Table(f"Parts of {method}", header, rows, align="l") if rows else None


def _curves(results: Sequence[Result]) -> list[Charts]:
    charts = [
        chart
        for name, metric in (("HR@20", "hr@20"), ("NDCG@20", "ndcg@20"))
        if (chart := _curve(results, name, metric)) is not None
    ]
    return [Charts(charts)] if charts else []


def _curve(results: Sequence[Result], name: str, metric: str) -> Chart | None:
    comparison = Comparison.of(results, "")
    lines = []
    for variant, group in comparison.groups.items():
        if variant in UNFEDERATED or not federated(group):
            if all("validation" in r for r in group):
                level = mean(r["validation"][metric] for r in group)
                lines.append(Line(variant, [(0.0, level)], flat=True))
            continue
        lines.append(_line(variant, group, metric))
    note = "Bands are ± one standard deviation over seeds; dashed: variants without rounds."
    return line_chart(f"{name}, validation", lines, "{:.3f}", note=note)


def _line(variant: str, group: Sequence[Result], metric: str) -> Line:
    values: dict[int, list[float]] = {}
    for result in group:
        for point in result.get("curve", []):
            values.setdefault(point["round"], []).append(point[metric])
    rounds = sorted(values)
    middle = [mean(values[r]) for r in rounds]
    width = [stdev(values[r]) if len(values[r]) > 1 else 0.0 for r in rounds]
    return Line(
        variant,
        [(float(r), m) for r, m in zip(rounds, middle, strict=True)],
        [m - w for m, w in zip(middle, width, strict=True)],
        [m + w for m, w in zip(middle, width, strict=True)],
    )


def _classes(comparison: Comparison) -> list[Table]:
    """Hits by rarity of the target and by length of the history, and how they are spread."""
    rarity, lengths = comparison.target_counts, comparison.history_lengths
    tables = []
    if rarity is not None:
        rates = {name: comparison.rarity_rates(name) for name in comparison.groups}
        tables.append(_by_class("uses of the target in training", CLASSES, rarity, rates))
    if lengths is not None:
        rates = {name: comparison.length_rates(name) for name in comparison.groups}
        tables.append(_by_class("items of the user's history", LENGTHS, lengths, rates))
        rows = [[name, *comparison.spreads(name)] for name in comparison.groups]
        tables.append(Table("Spread over nodes and users", SPREAD_HEADER, rows, folded=True))
    if found := suggestion_rows(comparison):
        tables.append(Table("What is suggested", SUGGESTIONS_HEADER, found, folded=True))
    return tables


def _by_class(
    by: str,
    classes: Sequence[CountClass],
    counts: Floats,
    rates: Mapping[str, Sequence[float | None]],
) -> Table:
    most = max((r for row in rates.values() for r in row if r is not None), default=0.0) or 1.0
    rows: list[list[Cell]] = [
        [name, *(NO_VALUE if r is None else Bar(f"{r:.4f}", r / most) for r in row)]
        for name, row in rates.items()
    ]
    users = [f"{int(members.members(counts).sum()):,}" for members in classes]
    header = [by, *(members.name for members in classes)]
    return Table(f"HR@20 on test, by {by}", header, [["users", *users], *rows], align="l")


def _cost(comparison: Comparison) -> Table:
    return Table(
        "Means over seeds", COST_HEADER, cost_rows(comparison), align="lrrrrrll", folded=True
    )
