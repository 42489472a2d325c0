"""Tables of results on the screen: what matters, in 80 columns; files hold all of it."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

NO_VALUE = "–"


def results_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    """Names on the left may fold, numbers on the right never do.

    Args:
        headers: a name for every column.
        rows: cells as text. A row of a single cell is the heading of those that follow.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    table.add_column(headers[0], overflow="fold")
    for header in headers[1:]:
        table.add_column(header, justify="right", no_wrap=True)
    for first, *numbers in rows:
        table.add_row(Text(first, style="" if numbers else "bold"), *numbers)
    return table


def number(value: float | None, form: str) -> str:
    """The value in a format like ".4f", or a dash where there is none."""
    return NO_VALUE if value is None else format(value, form)
