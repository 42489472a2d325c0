"""Titles as a catalog holds them: one line of plain text, the same on every machine.

White space and control characters are listed here, code point by code point. Python's own
definition of both depends on the Unicode tables of its version, and two machines that clean a title
differently would have different catalogs.
"""

import html
import re
from collections.abc import Iterable
from html.entities import html5

TITLE_SPACE = "\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""Inside ``[…]`` of a regular expression: C0 and C1 control characters, DEL, line and paragraph
separator, and every space. Characters that only shape the text are not listed, since words change
without them: joiners (U+200C, U+200D), soft hyphen, variation selectors, marks of direction."""

_SPACES = re.compile(f"[{TITLE_SPACE}]+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_UNCLEAN = re.compile(f"^ | $|  |[{TITLE_SPACE.replace(chr(0x20), chr(0x1F))}\ud800-\udfff]")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_INVISIBLE = re.compile("[\xad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]+")
_PLACEHOLDERS = frozenset({"nan", "NaN", "<NA>", "null", "NULL", "None", '""'})
"""What programs write where there is no title."""

_VALUE = r"""\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+)"""
_NO_TITLE = re.compile(  # repetitions have limits: titles of hundreds of kilobytes do occur
    rf"""
      <\s?/?\s?(?:script|style|html|head|body|iframe|!doctype)\b  # parts of a page
    | <!--
    | <[a-z][a-z0-9]*(?:\s+[a-z][\w:-]*{_VALUE})+\s*/?>           # a tag with attributes
    | <[a-z][a-z0-9]*\s+[a-z][\w:-]*\s*=\s*["']                   # … cut off within it
    | \(\s?new\s+Date\b | \.getTime\s?\( | \bdocument\.[a-z]+\s?[.(\[]
    | \b(?:var|const)\s{{1,9}}[\w$]{{1,99}}\s?=[^;]{{0,299}};
    | \bfunction\s{{0,9}}[\w$]{{0,99}}\s?\([^()]{{0,299}}\)\s?\{{
    | \{{\s{{0,9}}[a-z-]{{1,99}}\s?:[^{{}};]{{1,299}};                # a style sheet's rule
    """,
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
_SPECIAL = re.compile('[&<"({=]')
_TAG = re.compile(r"</?[a-z][a-z0-9]*\s*/?>", re.ASCII | re.IGNORECASE)


def clean_title(text: str) -> str:
    """The text on one line: every run of white space or control characters becomes one space.

    Tabs and line breaks would break the TSV files that LUMOS writes; NUL and other control
    characters would break prompts. Half of a surrogate pair, which no file can hold, becomes
    U+FFFD. Nothing else changes.
    """
    # tested first, as it is rarely true: tens of thousands of titles are read for every message
    if _UNCLEAN.search(text):
        text = _SPACES.sub(" ", _SURROGATES.sub("\ufffd", text)).strip(" ")
    return text


def usable_title(text: str | None) -> str:
    """The title that a field of a list of items holds, "" if it holds none that people can read.

    Character references (``&amp;``) are resolved, once; quotation marks of a CSV field that were
    taken for text are removed. Script, markup of a page, placeholders such as ``nan`` and text
    without a visible character do not count as titles.
    """
    if text is None:
        return ""
    if text.isascii() and not _SPECIAL.search(text):  # nearly all titles
        title = clean_title(text)
        return "" if title in _PLACEHOLDERS else title
    title = unquoted(clean_title(_ENTITY.sub(_resolved, text)))
    visible = _INVISIBLE.sub("", _TAG.sub("", title)).strip(" ")
    if not visible or title in _PLACEHOLDERS or _NO_TITLE.search(text) or _NO_TITLE.search(title):
        return ""
    return title


def usable_titles(texts: Iterable[str | None]) -> list[str]:
    """:func:`usable_title` of each."""
    return [usable_title(text) for text in texts]


def is_quoted(title: str) -> bool:
    """Whether a title is the quoted form of another, as CSV writes fields that hold a quotation
    mark: ``"12"" plate"``. Marks at both ends alone prove nothing: a title may be a quotation."""
    inner = title[1:-1]
    ends = len(title) > 1 and title[0] == title[-1] == '"'
    return ends and '""' in inner and '"' not in inner.replace('""', "")


def unquoted(title: str) -> str:
    """The title without the quoting of CSV, where :func:`is_quoted` finds it."""
    while is_quoted(title):
        title = clean_title(title[1:-1].replace('""', '"'))
    return title


def no_titles(texts: Iterable[str | None]) -> bool:
    """Whether a column cannot be one of titles: no letter in it, as with prices, years, dates."""
    return not any(c.isalpha() for text in texts if text for c in text)


def _resolved(reference: re.Match[str]) -> str:
    found = reference[0]
    return html.unescape(found) if found[1] == "#" else html5.get(found[1:], found)
