import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from page_histories import is_finite

from lumos_core.pages.charts import COLOURS, MOST_POINTS, Line, line_chart, thinned, ticks

NUMBERS = re.compile(r"-?[\d.]+(?:e-?\d+)?|nan|inf")


def drawn(svg: str, style: str) -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(svg).iter() if e.get("class", "").startswith(style)]


def test_a_line_goes_through_its_points_from_left_to_right_and_bottom_to_top() -> None:
    chart = line_chart("quality", [Line("a", [(0, 0.1), (1, 0.2), (2, 0.3)])])
    assert chart is not None
    [line] = drawn(chart.svg, "line")
    xs, ys = zip(*(map(float, p.split(",")) for p in line.get("points", "").split()), strict=True)
    assert list(xs) == sorted(set(xs))
    assert list(ys) == sorted(set(ys), reverse=True)  # up is a smaller y


def test_hostile_names_stay_text() -> None:
    bad = '</svg><script>alert(1)</script>" onload="x'
    chart = line_chart(bad, [Line(bad, [(0, 1), (1, 2)]), Line("b", [(0, 2)])], x_label=bad)
    assert chart is not None
    assert "<script" not in chart.svg
    root = ElementTree.fromstring(chart.svg)
    assert {element.tag for element in root.iter()} <= {
        "svg", "line", "text", "polyline", "circle", "polygon",
    }  # fmt: skip
    assert "onload" not in root.attrib
    assert bad in root.get("aria-label", "")


def test_what_is_drawn_is_told() -> None:
    chart = line_chart("HR@20", [Line("HR@20", [(0, 0.25), (6, 0.75)])], "{:.2f}")
    assert chart is not None
    told = ElementTree.fromstring(chart.svg).get("aria-label")
    assert told == "HR@20. from 0.25 to 0.75 at round 6"


def test_without_finite_points_nothing_is_drawn() -> None:
    assert line_chart("x", [Line("a", [])]) is None
    assert line_chart("x", [Line("a", [(0, math.nan), (1, math.inf)])]) is None


def test_a_legend_only_where_there_is_more_than_one_line() -> None:
    one = line_chart("x", [Line("a", [(0, 1)])])
    two = line_chart("x", [Line("a", [(0, 1)]), Line("b", [(0, 1)])])
    assert one is not None
    assert two is not None
    assert list(one.legend) == []
    assert [name for _, name in two.legend] == ["a", "b"]


def test_lines_beyond_the_colours_are_dashed() -> None:
    lines = [Line(f"{n}", [(0, n), (1, n)]) for n in range(COLOURS + 1)]
    chart = line_chart("x", lines)
    assert chart is not None
    styles = [e.get("class", "") for e in drawn(chart.svg, "line ")]
    assert [("dashed" in style) for style in styles] == [False] * COLOURS + [True]


def test_a_long_line_keeps_its_peak_and_its_ends() -> None:
    points = [(float(n), 1.0) for n in range(10_000)]
    points[7321] = (7321.0, 5.0)
    points[1234] = (1234.0, -5.0)
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS
    assert {0, 1234, 7321, 9999} <= set(kept)
    assert kept == sorted(kept)


@pytest.mark.parametrize("values", [(0.169, 0.185), (0.287, 0.324), (3, 3), (0, 41), (5.5, 6.55)])
def test_the_marks_of_the_axis_are_inside_the_drawing(values: tuple[float, float]) -> None:
    chart = line_chart("x", [Line("a", list(enumerate(values)))], "{:.4f}")
    assert chart is not None
    _, _, width, height = map(float, ElementTree.fromstring(chart.svg).get("viewBox", "").split())
    labels = [e for e in drawn(chart.svg, "tick") if e.get("text-anchor") == "end"]
    numbers = [float(e.text or "") for e in labels]
    assert numbers[0] <= min(values)
    assert max(values) <= numbers[-1]
    for element in (*labels, *drawn(chart.svg, "grid")):
        for key, limit in (("y", height), ("y1", height), ("x", width), ("x2", width)):
            assert 0 <= float(element.get(key, "0")) <= limit


finite = st.floats(-1e9, 1e9, allow_nan=False)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.floats(0, 1e5), finite), max_size=40), st.booleans())
def test_any_values_can_be_drawn(points: list[tuple[float, float]], from_zero: bool) -> None:
    chart = line_chart("x", [Line("a", sorted(points))], from_zero=from_zero)
    assert (chart is None) == (not points)
    if chart is not None:
        for line in drawn(chart.svg, "line "):
            assert all(map(is_finite, NUMBERS.findall(line.get("points", ""))))


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e9))
def test_ticks_cover_the_range_with_few_round_numbers(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert found[0] <= low + span * 1e-6
    assert found[-1] >= (low + span) - span * 1e-6
    assert 2 <= len(found) <= 7


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 6, [0, 2, 4, 6]), (0.28, 0.33, [0.28, 0.3, 0.32, 0.34]), (0, 1, [0, 0.25, 0.5, 0.75, 1])],
)
def test_ticks_of_usual_ranges(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)
