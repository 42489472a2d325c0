"""Tables of results on the screen: the most important values, in 80 columns. Files hold all values.

A number that is cut off reads as another number. So in a terminal that is too narrow for a table,
its rows become lines of names and values, down to 40 columns.
"""

from collections.abc import Iterable, Iterator, Sequence

from rich.box import HEAVY_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

NO_VALUE = "–"
_GAP = 2  # columns between two values
_NAME_WIDTH = 10  # columns that names get at least; longer names fold


class ResultsTable:
    """A table in which names, on the left, may fold and numbers never do; see
    :func:`results_table`."""

    def __init__(
        self, headers: Sequence[str], rows: Sequence[Sequence[str]], title: str, boxed: bool
    ) -> None:
        self._headers, self._rows = headers, rows
        self._title, self._boxed = title, boxed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._needed() <= options.max_width:
            yield self._table()
            return
        if self._title:
            yield Text(self._title, style="italic")
        for first, *values in self._rows:
            yield Text(f"{self._headers[0]} {first}".strip() if values else first, style="bold")
            pairs = zip(self._headers[1:], values, strict=False)  # a heading has no values
            words = [f"{header} {value}".strip() for header, value in pairs if value]
            for line in _filled(words, options.max_width - _GAP):
                yield Text(" " * _GAP + line)

    def _needed(self) -> int:
        """Columns that the table needs, so that no number is cut off."""
        columns = list(zip(*(row for row in self._rows if len(row) > 1), strict=True))
        widths = [
            max(map(len, (header, *cells)))
            for header, cells in zip(self._headers[1:], columns[1:], strict=False)
        ]
        names = [len(self._headers[0]), *(len(row[0]) for row in self._rows if len(row) > 1)]
        frame = 3 * (len(widths) + 1) + 1 if self._boxed else 2 * (len(widths) + 1)
        return sum(widths) + min(max(names), _NAME_WIDTH) + frame

    def _table(self) -> Table:
        box = HEAVY_HEAD if self._boxed else None
        title = Text(self._title, style="italic") if self._title else None
        table = Table(box=box, header_style="bold", title=title, title_justify="left")
        table.add_column(self._headers[0], overflow="fold")
        for header in self._headers[1:]:
            table.add_column(header, justify="right", no_wrap=True)
        for first, *values in self._rows:
            style = "" if values else "bold"
            table.add_row(Text(first, style=style), *(Text(value) for value in values))
        return table


def results_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", *, boxed: bool = False
) -> ResultsTable:
    """A table for a console of any width.

    Args:
        headers: a name for every column.
        rows: cells as text. A row of a single cell is the heading of those that follow.
        title: is shown above.
        boxed: with lines around it.
    """
    return ResultsTable(headers, [list(row) for row in rows], title, boxed)


def _filled(words: Sequence[str], width: int) -> Iterator[str]:
    """Lines of words, as many words on each as it has room for; no word is broken."""
    line = ""
    for word in words:
        longer = f"{line}{' ' * _GAP}{word}" if line else word
        if line and len(longer) > width:
            yield line
            longer = word
        line = longer
    if line:
        yield line


def number(value: float | None, form: str) -> str:
    """The value in a format like ".4f", or a dash where there is none."""
    return NO_VALUE if value is None else format(value, form)
