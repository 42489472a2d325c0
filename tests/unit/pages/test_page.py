import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from lumos_core.pages.charts import Line, line_chart
from lumos_core.pages.page import (
    Bar,
    Charts,
    Figure,
    Finding,
    Findings,
    Page,
    Paragraph,
    Rows,
    Section,
    Shade,
    Span,
    Table,
    policy,
    render,
    style,
)

HOSTILE = """</style></script><img src=x onerror=alert(1)>"'{{ 7*7 }}&amp;"""


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def whole(text: str) -> Page:
    """A page with every kind of block, in which every text is this one."""
    chart = line_chart(text, [Line(text, [(0, 1), (1, 2)]), Line(text, [(0, 2)], flat=True)])
    assert chart is not None
    row = [text, Bar(text, 0.5), Span(text, 0.1, 0.2, 0.3, 0.5, "bad"), Shade(text, 3)]
    return Page(
        title=text, kicker=text, lead=text, tone="bad", figures=[Figure(text, text, text)],
        made=text,
        sections=[
            Section("a", text, [Paragraph(text), Findings([Finding(text, text)]), Charts([chart])]),
            Section(
                "b", text,
                [
                    Table(text, [text] * 4, [row], note=text),
                    Table(text, [text] * 4, [row], folded=True),
                    Rows(text, [(text, text)]),
                ],
            ),
        ],
    )  # fmt: skip


def test_hostile_text_stays_text_wherever_it_stands() -> None:
    tags = Tags(render(whole(HOSTILE)))
    kinds = {tag for tag, _ in tags.found}
    assert not kinds & {"img", "script", "iframe", "object", "link", "base", "form"}
    assert [tag for tag, _ in tags.found] == [tag for tag, _ in Tags(render(whole("x"))).found]
    attributes = {name for _, found in tags.found for name in found}
    assert not {name for name in attributes if name.startswith("on") or name == "style"}
    assert "".join(tags.text).count(HOSTILE) > 15


def test_the_page_fetches_and_runs_nothing() -> None:
    text = render(whole("x"))
    found = Tags(text).found
    [csp] = [a["content"] for t, a in found if a.get("http-equiv") == "Content-Security-Policy"]
    assert csp is not None
    rules = dict(rule.split(" ", 1) for rule in csp.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "script-src" not in rules  # default-src holds
    assert "unsafe" not in csp
    for _, attributes in found:
        assert "src" not in attributes
        assert not attributes.get("href") or str(attributes["href"]).startswith("#")
    assert "@import" not in style()
    assert "url(" not in style()


def test_the_policy_names_exactly_the_style_sheet_in_the_page() -> None:
    text = render(whole("x"))
    [sheet] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in text.replace("&#39;", "'")


def test_a_live_pages_policy_allows_its_script_only() -> None:
    rules = dict(rule.split(" ", 1) for rule in policy("alert(1)", header=True).split("; "))
    digest = base64.b64encode(hashlib.sha256(b"alert(1)").digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"


def test_sections_without_blocks_are_left_out() -> None:
    page = Page(
        "t", "k", "l", sections=[Section("a", "A", []), Section("b", "B", [Paragraph("p")])]
    )
    headings = re.findall(r'<h2 id="([a-z]+)-title">', render(page))
    assert headings == ["b"]


@pytest.mark.parametrize(("column", "side"), [(0, "l"), (1, "r"), (2, "l"), (5, "l")])
def test_the_last_letter_counts_for_all_that_follow(column: int, side: str) -> None:
    assert Table("t", [], [], align="lrl").side(column) == side
