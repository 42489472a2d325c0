"""Tuning alike: who is tuned, what is chosen, and what of it is in the table."""

import pytest

from lumos_core.config import RunConfig
from lumos_core.experiments.comparison import tuning
from lumos_core.experiments.comparison.variants import COUNTED, VARIANTS
from lumos_core.experiments.results_file import Result


def point(variant: str, name: str, ndcg: float) -> Result:
    return {"variant": variant, "seed": 0, "tuning": name, "validation": {"ndcg@20": ndcg}}


def grid(variant: str, *values: float) -> list[Result]:
    pairs = zip(tuning.GRID, values, strict=True)
    return [point(variant, name, value) for name, value in pairs]


def test_every_variant_that_trains_is_of_a_family() -> None:
    without = [name for name in VARIANTS if tuning.family_of(name) is None]
    assert without == list(COUNTED)


@pytest.mark.parametrize(
    ("variant", "family"),
    [
        ("fedavg-start", "fedavg"),
        ("fedavg-plus", "fedavg-plus"),
        ("fedavg-plus-no-bias", "fedavg-plus"),
        ("fedavg-plusher", "fedavg"),
        ("lumos", "lumos"),
        ("lumosity", None),
        ("local", "local"),
    ],
)
def test_a_family_is_a_name_and_what_is_named_after_it(variant: str, family: str | None) -> None:
    assert tuning.family_of(variant) == family


def test_a_family_is_tuned_once() -> None:
    names = ["popularity", "lumos-tfidf", "fedavg-start", "lumos", "fedavg"]
    assert tuning.representatives(names) == {"lumos": "lumos", "fedavg": "fedavg"}


def test_the_grid_changes_what_it_names_and_nothing_else() -> None:
    base = RunConfig(rounds=7)
    assert tuning.at_point(base, None) == tuning.at_point(base, "base") == base
    changed = tuning.at_point(base, "slower-wider")
    assert (changed.learning_rate, changed.dropout, changed.dim) == (1e-3, 0.5, 128)
    assert changed.replace(learning_rate=base.learning_rate, dropout=base.dropout,
                           dim=base.dim) == base  # fmt: skip


def test_the_best_on_validation_is_chosen_and_of_equals_the_first() -> None:
    results = [*grid("fedavg", 0.1, 0.3, 0.2), *grid("lumos", 0.2, 0.1, 0.2)]
    assert tuning.choices(results) == {"fedavg": "slower", "lumos": "base"}


def test_nothing_is_chosen_from_half_a_grid() -> None:
    assert tuning.choices(grid("fedavg", 0.1, 0.3, 0.2)[:2]) == {}


def test_of_the_grid_only_the_choice_is_in_the_table() -> None:
    row: Result = {"variant": "fedavg-start", "seed": 0, "tuned": "slower"}
    results = [*grid("fedavg", 0.1, 0.3, 0.2), row, *grid("lumos", 0.1, 0.2, 0.3)[:2]]
    chosen = {"variant": "fedavg", "seed": 0, "tuned": "slower", "validation": {"ndcg@20": 0.3}}
    assert tuning.in_table(results) == [chosen, row]
    assert tuning.in_table(tuning.in_table(results)) == [chosen, row]
