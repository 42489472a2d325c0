"""Tables in Markdown, and means with their spread."""

import pytest

from lumos_core.terminal.tables import markdown_table, spread


def test_names_are_on_the_left_and_numbers_on_the_right() -> None:
    table = markdown_table(["name", "HR", "NDCG"], [["a", "0.1", "0.2"], ["b", "0.3", "–"]])
    assert table == ("| name | HR | NDCG |\n|---|--:|--:|\n| a | 0.1 | 0.2 |\n| b | 0.3 | – |\n")


@pytest.mark.parametrize(
    ("align", "rule"),
    [("l", "|---|---|---|"), ("llr", "|---|---|--:|"), ("lrl", "|---|--:|---|")],
)
def test_the_last_letter_aligns_all_columns_that_follow(align: str, rule: str) -> None:
    assert markdown_table("abc", [], align).splitlines() == ["| a | b | c |", rule]


def test_a_column_may_have_no_name() -> None:
    lines = markdown_table(["", "x"], [["a", ""]]).splitlines()
    assert lines == ["| | x |", "|---|--:|", "| a | |"]


def test_a_spread_needs_two_values() -> None:
    assert spread([], "{:.1f}") == "–"
    assert spread([0.25], "{:+.2f}") == "+0.25"
    assert spread([0.1, 0.3], "{:+.1f}") == "+0.2 ± 0.1"
