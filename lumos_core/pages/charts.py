"""Line charts as inline SVG: no library in the reader's browser, no script, no network.

A chart is drawn 360 units wide, which is about the width of a phone, so its text can be read there;
wide screens show several charts side by side. Colours are CSS classes: the page knows whether it is
dark or light.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

Point = tuple[float, float]
COLOURS = 8
"""Lines that have a colour of their own; the next ones repeat the colours with dashes."""
MOST_POINTS = 240
"""Points of a line that are drawn; more could not be told apart."""

_WIDTH, _HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 14, 34
_TICKS = 4


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: for the legend.
        points: (x, y), ordered by x. A single point without ``flat`` is a dot.
        low, high: for each point the ends of a band around it; empty for none.
        flat: a level that does not depend on x: drawn across the whole chart, with dashes.
    """

    name: str
    points: Sequence[Point]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    flat: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawn chart.

    Attributes:
        title: what is drawn; the page shows it above.
        svg: the drawing.
        legend: for each line its style and its name; empty for a single line.
        note: a sentence below.
    """

    title: str
    svg: Markup
    legend: Sequence[tuple[str, str]] = ()
    note: str = ""
    kind: str = "chart"


@dataclass(frozen=True)
class _Frame:
    """How values become positions."""

    x0: float
    x1: float
    marks: Sequence[float]  # round values of y; the axis reaches from the first to the last

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.marks[0], self.marks[-1]
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def at(self, point: Point) -> str:
        return f"{self.x(point[0]):.1f},{self.y(point[1]):.1f}"


def line_chart(
    title: str,
    lines: Sequence[Line],
    form: str = "{:g}",
    x_label: str = "round",
    *,
    from_zero: bool = False,
    mark: Point | None = None,
    note: str = "",
) -> Chart | None:
    """Draw lines.

    Args:
        title: what is drawn.
        lines: the lines; those without points are left out.
        form: a format for values of y.
        x_label: name of the x axis.
        from_zero: the y axis begins at 0.
        mark: a point to mark with a dot and its value.
        note: a sentence below.

    Returns:
        The chart; None if no line has a finite point.
    """
    lines = [line for line in map(_finite, lines) if line.points]
    if not lines:
        return None
    frame = _frame(lines, from_zero)
    svg = ElementTree.Element(
        "svg", {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "role": "img", "aria-label": _told(
            title, lines, form, x_label)}
    )  # fmt: skip
    _axes(svg, frame, form, x_label)
    for number, line in enumerate(lines):
        _draw(svg, frame, line, number)
    if mark is not None:
        _mark(svg, frame, mark, form)
    legend = [(_style(line, n), line.name) for n, line in enumerate(lines)]
    drawing = Markup(ElementTree.tostring(svg, encoding="unicode"))
    return Chart(title, drawing, legend if len(lines) > 1 else (), note)


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[int]:
    """Positions of the points that are drawn: of each stretch its lowest and its highest one, and
    the first and the last of all, so that no peak is lost."""
    if len(points) <= most:
        return list(range(len(points)))
    stretches = max(most // 2 - 1, 1)
    chosen = {0, len(points) - 1}
    for number in range(stretches):
        stretch = range(number * len(points) // stretches, (number + 1) * len(points) // stretches)
        chosen.add(min(stretch, key=lambda i: points[i][1]))
        chosen.add(max(stretch, key=lambda i: points[i][1]))
    return sorted(chosen)


def ticks(low: float, high: float, count: int = _TICKS) -> list[float]:
    """Round numbers that cover a range, about ``count`` of them."""
    span = high - low
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


# ---------------------------------------------------------------- parts of a drawing
def _finite(line: Line) -> Line:
    """The line as it is drawn: finite points only, and not more than can be seen."""
    kept = [n for n, point in enumerate(line.points) if all(map(math.isfinite, point))]
    kept = [kept[n] for n in thinned([line.points[n] for n in kept])]
    return Line(
        line.name,
        [line.points[n] for n in kept],
        [line.low[n] for n in kept] if line.low else (),
        [line.high[n] for n in kept] if line.high else (),
        line.flat,
    )


def _frame(lines: Sequence[Line], from_zero: bool) -> _Frame:
    xs = [x for line in lines if not line.flat for x, _ in line.points] or [0.0, 1.0]
    ys = [y for line in lines for y in (*(p[1] for p in line.points), *line.low, *line.high)]
    low, high = min(ys), max(ys)
    if from_zero:
        low = min(low, 0.0)
    if high - low < 1e-12 * max(abs(high), 1.0):
        low, high = (0.0, high) if high > 0 and from_zero else (low - 0.5, high + 0.5)
    x0, x1 = min(xs), max(xs)
    return _Frame(x0, x1 if x1 > x0 else x0 + 1, ticks(low, high))


def _axes(svg: ElementTree.Element, frame: _Frame, form: str, x_label: str) -> None:
    for value in frame.marks:
        y = f"{frame.y(value):.1f}"
        _add(svg, "line", "grid", x1=str(_LEFT), x2=str(_WIDTH - _RIGHT), y1=y, y2=y)
        where = {"x": str(_LEFT - 6), "y": f"{frame.y(value) + 4:.1f}", "text-anchor": "end"}
        _add(svg, "text", "tick", form.format(value), **where)
    whole = [v for v in ticks(frame.x0, frame.x1, 5) if frame.x0 <= v <= frame.x1 and v % 1 == 0]
    for value in whole:
        where = {"x": f"{frame.x(value):.1f}", "y": str(_HEIGHT - _BOTTOM + 16)}
        _add(svg, "text", "tick", f"{value:g}", **where, **{"text-anchor": "middle"})
    where = {"x": f"{(_LEFT + _WIDTH - _RIGHT) / 2:g}", "y": str(_HEIGHT - 3)}
    _add(svg, "text", "axis", x_label, **where, **{"text-anchor": "middle"})


def _draw(svg: ElementTree.Element, frame: _Frame, line: Line, number: int) -> None:
    style = _style(line, number)
    if line.flat:
        y = line.points[0][1]
        ends = " ".join(frame.at((x, y)) for x in (frame.x0, frame.x1))
        _add(svg, "polyline", f"line {style}", points=ends)
        return
    if line.low and line.high:
        xs = [x for x, _ in line.points]
        around = [*zip(xs, line.high, strict=True)]
        around += reversed([*zip(xs, line.low, strict=True)])
        _add(svg, "polygon", f"band {style}", points=" ".join(map(frame.at, around)))
    if len(line.points) == 1:
        (x, y), = line.points  # fmt: skip
        _add(svg, "circle", f"dot {style}", cx=f"{frame.x(x):.1f}", cy=f"{frame.y(y):.1f}", r="3")
        return
    _add(svg, "polyline", f"line {style}", points=" ".join(map(frame.at, line.points)))


def _style(line: Line, number: int) -> str:
    return f"c{number % COLOURS}" + (" dashed" if number >= COLOURS or line.flat else "")


def _mark(svg: ElementTree.Element, frame: _Frame, mark: Point, form: str) -> None:
    x, y = frame.x(mark[0]), frame.y(mark[1])
    _add(svg, "circle", "dot c0", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3.5")
    right = x > _WIDTH / 2
    below = y < _TOP + 16
    where = {
        "x": f"{x - 6 if right else x + 6:.1f}",
        "y": f"{y + 16 if below else y - 7:.1f}",
        "text-anchor": "end" if right else "start",
    }
    _add(svg, "text", "value", form.format(mark[1]), **where)


def _add(
    parent: ElementTree.Element, tag: str, style: str, text: str = "", **attributes: str
) -> None:
    element = ElementTree.SubElement(parent, tag, {"class": style, **attributes})
    if text:
        element.text = text


def _told(title: str, lines: Sequence[Line], form: str, x_label: str) -> str:
    """The chart in words, for those who cannot see it."""
    parts = []
    for line in lines:
        (_, first), (x, last) = line.points[0], line.points[-1]
        name = f"{line.name}: " if len(lines) > 1 else ""
        if line.flat or len(line.points) == 1:
            parts.append(f"{name}{form.format(last)}")
        else:
            end = f"{form.format(last)} at {x_label} {x:g}"
            parts.append(f"{name}from {form.format(first)} to {end}")
    return f"{title}. " + "; ".join(parts)
