"""Tables in Markdown, and numbers of repeated runs as text."""

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from statistics import mean, stdev

_RULES = {"l": "---", "r": "--:"}


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "lr") -> str:
    """A Markdown table, with a line end after the last row.

    Args:
        header: a name for every column; may be empty.
        rows: cells as text.
        align: ``l`` (left) or ``r`` (right) for each column; the last letter also counts for all
            columns that follow. By default the first column, with names, is left-aligned and the
            others, with numbers, are right-aligned.
    """
    letters = chain(align, repeat(align[-1]))
    rule = "|".join(_RULES[letter] for letter, _ in zip(letters, header, strict=False))
    lines = [_line(header), f"|{rule}|", *map(_line, rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation in a format like "{:+.4f}"; for one value only the mean."""
    if not values:
        return "–"
    text = form.format(mean(values))
    unsigned = form.replace("+", "")
    return f"{text} ± {unsigned.format(stdev(values))}" if len(values) > 1 else text
