"""A page, described by what it says; :func:`render` makes HTML of it.

The page is one file. Its content-security policy allows the style sheet in it by hash and, on a
live page, its script by hash; nothing else is fetched, run or sent, whatever text is in the page.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from lumos_core.pages.charts import Chart

if TYPE_CHECKING:
    from jinja2 import Environment, Template

Tone = Literal["plain", "good", "attention", "bad"]


# ---------------------------------------------------------------- cells of tables
@dataclass(frozen=True)
class Bar:
    """A number with a bar: ``share`` of the column's whole width, from 0 to 1."""

    text: str
    share: float
    kind: str = "bar"


@dataclass(frozen=True)
class Span:
    """An interval with its middle, each from 0 to 1 between the ends of the column's scale.

    Attributes:
        text: the interval in numbers.
        low, middle, high: of the interval.
        zero: where the scale's zero is.
        tone: whether the interval is above zero, below it or neither.
    """

    text: str
    low: float
    middle: float
    high: float
    zero: float
    tone: Tone = "plain"
    kind: str = "span"


@dataclass(frozen=True)
class Shade:
    """A number on a ground that is the darker, the higher ``level`` is: 0 to 9."""

    text: str
    level: int
    kind: str = "shade"


Cell = str | Bar | Span | Shade


# ---------------------------------------------------------------- blocks of sections
@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str
    tone: Tone = "plain"
    kind: str = "paragraph"


@dataclass(frozen=True)
class Finding:
    """Something that went wrong, and what to do about it."""

    what: str
    advice: str
    tone: Tone = "attention"


@dataclass(frozen=True)
class Findings:
    """What went wrong, as a list."""

    items: Sequence[Finding]
    kind: str = "findings"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what it shows.
        header: a name for every column.
        rows: cells; the first of each row is its name.
        folded: it is closed until a reader opens it.
        align: ``l`` or ``r`` for each column; the last letter also counts for all that follow.
        note: a sentence below.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False
    align: str = "lr"
    note: str = ""
    kind: str = "table"

    def side(self, column: int) -> str:
        """The letter of a column."""
        return self.align[min(column, len(self.align) - 1)]


@dataclass(frozen=True)
class Charts:
    """Charts side by side, as many as there is room for."""

    charts: Sequence[Chart]
    kind: str = "charts"


@dataclass(frozen=True)
class Rows:
    """Labelled rows of text, as of an example.

    Attributes:
        title: what the rows are about.
        rows: (label, text).
    """

    title: str
    rows: Sequence[tuple[str, str]]
    kind: str = "rows"


@dataclass(frozen=True)
class Form:
    """A button, with at most one field for text beside it. It works without a script.

    Attributes:
        action: the path that the form is sent to, by POST.
        button: what the button says.
        hidden: names and values that are sent as well.
        field: name of the field; empty: none.
        label: what belongs into the field.
        tone: of the button.
    """

    action: str
    button: str
    hidden: Mapping[str, str]
    field: str = ""
    label: str = ""
    tone: Tone = "plain"
    kind: str = "form"


Block = Paragraph | Findings | Table | Charts | Rows | Form


@dataclass(frozen=True)
class Section:
    """A part of a page; it is left out if it has no blocks."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Figure:
    """One of the few numbers that matter most."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: what it is about, in a few words.
        kicker: a line above the title: what kind of page this is.
        lead: the sentences that matter first.
        tone: whether these are good news.
        figures: the few numbers that matter most.
        sections: the rest.
        made: a line at the end: what wrote the page, and when.
    """

    title: str
    kicker: str
    lead: str
    tone: Tone = "plain"
    figures: Sequence[Figure] = ()
    sections: Sequence[Section] = field(default_factory=tuple)
    made: str = ""

    @property
    def shown(self) -> list[Section]:
        """The sections that have something to say."""
        return [section for section in self.sections if section.blocks]


@dataclass(frozen=True)
class Snapshot:
    """What a live page shows at a moment.

    Attributes:
        page: the page.
        announcement: what a screen reader is told when it changes.
    """

    page: Page
    announcement: str


# ---------------------------------------------------------------- HTML
def render(page: Page, *, forms: bool = False) -> str:
    """The page as HTML, in one file without a script.

    Args:
        page: the page.
        forms: it has forms, which may be sent to where the page came from.
    """
    return _template("report.html").render(
        page=page, style=style(), policy=policy(forms=forms), referrer=referrer(forms=forms)
    )


def render_live(shown: Snapshot, name: str) -> str:
    """A page as HTML, with the script that keeps it up to date.

    Args:
        shown: what is known now.
        name: of what is shown, for the title of the window.
    """
    return _template("live.html").render(
        page=shown.page, name=name, announcement=shown.announcement, style=style(), script=script()
    )


def live_parts(page: Page) -> dict[str, str]:
    """The parts of a live page that may change, as HTML, by the id of their place in it."""
    template = _template("parts.html")
    parts = {f"part-{name}": template.render(page=page, part=name) for name in ("top", "figures")}
    for section in page.sections:
        html = template.render(page=page, part=section) if section.blocks else ""
        parts[f"part-{section.key}"] = html
    return parts


def script() -> str:
    """The script of live pages."""
    return _text("live.js")


def style() -> str:
    """The style sheet of all pages."""
    return _text("page.css")


def referrer(*, forms: bool = False) -> str:
    """What a page says of itself where its links and forms lead. A browser sends no ``Origin`` with
    a form of a page that says nothing."""
    return "same-origin" if forms else "no-referrer"


def policy(script: str = "", *, header: bool = False, forms: bool = False) -> str:
    """The content-security policy of a page.

    Args:
        script: the only script that may run; it may also connect to where the page came from.
        header: for the HTTP header, which can also forbid frames.
        forms: whether forms may be sent, to where the page came from.
    """
    rules = ["default-src 'none'", f"style-src '{_hash(style())}'"]
    if script:
        rules += [f"script-src '{_hash(script)}'", "connect-src 'self'"]
    rules += ["base-uri 'none'", f"form-action '{'self' if forms else 'none'}'"]
    if header:
        rules.append("frame-ancestors 'none'")
    return "; ".join(rules)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _text(name: str) -> str:
    return files("lumos_core.pages").joinpath(name).read_text("utf-8")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _template(name: str) -> "Template":
    return _environment().get_template(name)
