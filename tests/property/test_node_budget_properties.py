"""ε of all runs of a node, by one accountant: at most the sum of the runs, at least each one's."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lumos_core.privacy.budget import composed
from lumos_core.privacy.node_budget import Spent, Training

DELTA = 1e-5

trainings = st.builds(
    Training,
    noise=st.floats(0.3, 20.0),
    rate=st.one_of(st.just(1.0), st.floats(0.001, 1.0)),
    steps=st.integers(1, 200),
)
runs = st.lists(st.tuples(st.sampled_from("abcd"), trainings), min_size=1, max_size=5)


def spent_by(work: list[tuple[str, Training]]) -> Spent:
    spent = Spent()
    for run, training in work:
        spent = spent.after_training(run, training)
    return spent


@settings(max_examples=8)  # RDP of sampled mechanisms takes a tenth of a second
@given(runs)
@example([("a", Training(0.3, 1.0, 200)), ("b", Training(20.0, 0.001, 1))])
def test_the_sum_of_all_runs_bounds_the_whole_and_none_exceeds_it(
    work: list[tuple[str, Training]],
) -> None:
    spent = spent_by(work)
    alone = [spent.epsilon_of(run.run, DELTA) for run in spent.runs]
    whole = spent.epsilon(DELTA)
    assert max(alone) <= whole * (1 + 1e-9)
    assert whole <= sum(alone) * (1 + 1e-9)


@settings(max_examples=8)  # RDP of sampled mechanisms takes a tenth of a second
@given(runs, st.integers(1, 3))
def test_only_what_was_done_counts_not_by_which_run(
    work: list[tuple[str, Training]], shift: int
) -> None:
    other = [("abcd"[(number + shift) % 4], training) for number, (_, training) in enumerate(work)]
    assert spent_by(other).epsilon(DELTA) == pytest.approx(spent_by(work).epsilon(DELTA))


@settings(max_examples=8)  # RDP of sampled mechanisms takes a tenth of a second
@given(runs, trainings)
def test_another_training_never_gives_anything_back(
    work: list[tuple[str, Training]], more: Training
) -> None:
    before = spent_by(work)
    assert before.after_training("e", more).epsilon(DELTA) >= before.epsilon(DELTA) * (1 - 1e-9)


@settings(max_examples=8)  # RDP of sampled mechanisms takes a tenth of a second
@given(
    st.floats(0.5, 10.0),
    st.lists(st.tuples(st.floats(0.01, 1.0), st.integers(1, 50)), min_size=1, max_size=3),
)
def test_it_is_the_accountant_of_a_run(noise: float, steps: list[tuple[float, int]]) -> None:
    work = [(f"r{n}", Training(noise, rate, number)) for n, (rate, number) in enumerate(steps)]
    counts: dict[float, int] = {}
    for rate, number in steps:
        counts[rate] = counts.get(rate, 0) + number
    assert spent_by(work).epsilon(DELTA) == pytest.approx(composed(noise, counts, DELTA), rel=1e-6)
