"""Result tables on a terminal of 80 columns."""

import io

import pytest
from rich.console import Console

from lumos_core.cli.attack import _screen_rows
from lumos_core.cli.screens import number, results_table


def printed(headers, rows) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(results_table(headers, rows))
    return console.file.getvalue().splitlines()


def result(method: str, attack: str, seed: int, hr: float) -> dict:
    malicious = 0 if attack == "none" else 1
    return {
        "method": method, "seed": seed, "hr@20": hr, "er@10": 0.5, "target-rank": 0.25,
        "scenario": {"attack": attack, "rho": 0.05 * malicious, "xi": 0.9 * malicious,
                     "noise": 0.0, "nodes": 19, "partition": "uniform",
                     "malicious": malicious},
    }  # fmt: skip


def test_long_names_fold_and_no_number_is_cut():
    name = "a variant whose name is much longer than any terminal has room for in one line"
    numbers = [f"0.{i:04} ± 0.0123" for i in range(4)]
    lines = printed(("variant", *"abcd"), [[name, *numbers]])
    assert len(lines) > 2
    assert all(n in lines[1] for n in numbers)
    assert max(map(len, lines)) <= 80


def test_names_in_brackets_are_not_taken_for_markup():
    assert "[red]" in "\n".join(printed(("variant", "x"), [["[red]"], ["[bold]", "1"]]))


def test_attacks_are_shown_method_by_method_as_means_over_seeds():
    results = [
        result(method, attack, seed, hr - 0.02 * (attack == "boosted"))
        for attack in ("none", "boosted")
        for method, hr in (("lumos", 0.2), ("fedavg", 0.1))
        for seed in (0, 1)
    ]
    rows = list(_screen_rows(results))
    assert [row[0].strip() for row in rows] == [
        "lumos", "no attack (19 nodes)", "boosted, 1 of 20 nodes, ξ = 0.9",
        "fedavg", "no attack (19 nodes)", "boosted, 1 of 20 nodes, ξ = 0.9",
    ]  # fmt: skip
    assert rows[2][1:] == ["2", "0.1800", "+0.0200", "0.5000", "25.0%"]
    assert all(len(row) in (1, 6) for row in rows)


def test_a_missing_value_is_a_dash():
    assert number(None, ".3f") == "–"
    assert number(0.25, ".3f") == "0.250"


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("width", [20, 40, 59, 80, 200])
def test_no_number_is_cut_at_any_width(width: int, boxed: bool) -> None:
    headers = ("test", "HR@10", "HR@20", "NDCG@20", "HR@20 of centralised")
    rows = [["federated lumos", "0.1234", "0.2345", "0.0987", "95%"], ["all", *["0.5000"] * 4]]
    console = Console(file=io.StringIO(), width=width)
    console.print(results_table(headers, rows, "the results", boxed=boxed))
    text = console.file.getvalue()
    for value in [cell for row in rows for cell in row[1:]]:
        assert value in text
    assert "…" not in text
    if width >= 40:
        assert max(map(len, text.splitlines())) <= width


def test_a_narrow_table_is_lines_of_names_and_values() -> None:
    console = Console(file=io.StringIO(), width=24)
    rows = [["nodes"], ["3", "0.1234", "", "2"]]
    console.print(results_table(("round", "HR@20", "x", "failures"), rows))
    assert [line.rstrip() for line in console.file.getvalue().splitlines()] == [
        "nodes", "round 3", "  HR@20 0.1234", "  failures 2",
    ]  # fmt: skip
