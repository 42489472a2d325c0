"""What users are shown by each variant: how much of the catalog, and how popular it is."""

from collections.abc import Mapping, Sequence
from statistics import mean

from lumos_core.experiments.results_file import Result
from lumos_core.learning.shown_items import COVERAGE, LIFT, SHOWN
from lumos_core.terminal.tables import markdown_table

SHOWN_METRICS = "shown"
"""Key of results: coverage and popularity lift of what users are shown on the test."""
SHOWN_HEADER = ("what users are shown", f"coverage@{SHOWN}", f"popularity lift@{SHOWN}")
SHOWN_LEGEND = f"""\
Coverage: the share of the catalog that is among the first {SHOWN} items of at least one user. Lift:
how popular these items are in training, in multiples of what the targets are. Means over seeds.
"""
_FORMATS = {COVERAGE: "{:.1%}", LIFT: "{:.2f}"}


def shown_rows(groups: Mapping[str, Sequence[Result]]) -> list[list[str]]:
    """For each variant what :data:`SHOWN_HEADER` names; none if no result says so."""
    known = any(SHOWN_METRICS in result for group in groups.values() for result in group)
    return [[name, *_cells(group)] for name, group in groups.items()] if known else []


def shown_table(groups: Mapping[str, Sequence[Result]]) -> list[str]:
    """The same as Markdown, with what it means."""
    rows = shown_rows(groups)
    return [markdown_table(SHOWN_HEADER, rows), SHOWN_LEGEND] if rows else []


def _cells(group: Sequence[Result]) -> list[str]:
    return [_cell(group, metric) for metric in (COVERAGE, LIFT)]


def _cell(group: Sequence[Result], metric: str) -> str:
    values = [r[SHOWN_METRICS][metric] for r in group if metric in r.get(SHOWN_METRICS, {})]
    return _FORMATS[metric].format(mean(values)) if values else "–"
