"""What a title is, and that it is the same on every machine."""

import hashlib
import time

import pytest

from lumos_core.data.reading.title_text import (
    clean_title,
    is_quoted,
    no_titles,
    unquoted,
    usable_title,
)


def test_titles_end_up_on_one_line() -> None:
    assert clean_title(' a\tb\r\n c\u2028d\x00e  "f" \u3000') == 'a b c d e "f"'


@pytest.mark.parametrize(
    "title",
    ["می\u200cخواهم", "\U0001f468\u200d\U0001f469\u200d\U0001f467 family", "co\xadoperate",
     "shaking \U0001fae8 face", "\u202a\U0001fabf goose\u202c", "x\u200bz", "a\ufe0fb", "\ue000"],
)  # fmt: skip
def test_what_shapes_words_and_what_unicode_adds_stays(title: str) -> None:
    assert clean_title(title) == usable_title(title) == title


def test_every_character_is_cleaned_as_ever() -> None:
    """The same digest under every version of Python, whatever its Unicode tables say."""
    digest = hashlib.sha256()
    for start in range(0, 0x110000, 0x1000):
        cleaned = (clean_title(f"x{chr(c)}y") for c in range(start, start + 0x1000))
        digest.update("\n".join(cleaned).encode())
    assert digest.hexdigest() == (
        "bcdc7d68ae06695ca8bad4de7dcc3e926456a096093f2271cecd635ed77466aa"
    )


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Salt &amp; pepper", "Salt & pepper"),
        ("&amp;amp;", "&amp;"),  # once
        ("&#34;Quoted&#34; &lt;b&gt; &#x2f; caf&eacute;", '"Quoted" <b> / café'),
        ("a&#10;b&nbsp;c", "a b c"),
        ("shoes&regular &notit; R&D &copy &#xD800;", "shoes&regular &notit; R&D &copy \ufffd"),
        ('"12"" plate, ""blue"""', '12" plate, "blue"'),
        ('"a quotation"', '"a quotation"'),
        ("The <div> element: I <3 HTML", "The <div> element: I <3 HTML"),
        ("f(x) = y; function (maths)", "f(x) = y; function (maths)"),
        ("A {set: of, things}", "A {set: of, things}"),
        ("1984", "1984"),
        ("Nan", "Nan"),
    ],
)
def test_usable_titles(text: str, title: str) -> None:
    assert usable_title(text) == title


@pytest.mark.parametrize(
    "text",
    [
        None, "", "  \t", "\u200b\u200d", "&nbsp;", "nan", "NaN", "null", "None", "<NA>", '""',
        "var aPageStart = (new Date()).getTime();\n", "P.when('A').execute(function(A) { A(1)",
        '<span id="productTitle" class="a-size-large">x', "<img src=x.png />", "<a href='#",
        "&lt;span id=&quot;t&quot;&gt;x&lt;/span&gt;", "<script>x()</script>", "<!-- x -->",
        "</html>", "<br/>", "<p> </p>", ".a-box {color: red; border: 0}", "document.write('x')",
    ],
)  # fmt: skip
def test_what_is_no_title(text: str | None) -> None:
    assert usable_title(text) == ""


def test_quoting_is_found_only_where_marks_are_doubled() -> None:
    assert [t for t in ('""', '"""', '""""', '"a"', '"a""b"', '"a"b"', '""a"') if is_quoted(t)] == [
        '""""',
        '"a""b"',
    ]
    assert unquoted('"a""b"') == 'a"b'
    assert not is_quoted(unquoted('"' * 64))


def test_columns_without_a_letter_hold_no_titles() -> None:
    assert no_titles(["1.99", None, "$ 2,50", "2014-01-01", ""])
    assert not no_titles(["300", "1984", "12 Monkeys"])
    assert not no_titles(["七人の侍"])


@pytest.mark.parametrize("start", ["var x = ", "<a b=c ", '"', "a", "function ", "{a:", "<", "&#3"])
def test_enormous_titles_take_no_time(start: str) -> None:
    began = time.process_time()
    usable_title(start * 50_000)
    assert time.process_time() - began < 5
