"""A node refuses every sum of one or two, by the code that a deployment runs."""

from collections.abc import Callable

from lumos_core.config import RunConfig
from lumos_core.experiments.inference.active_settings import PROTECTIONS, SECURE
from lumos_core.experiments.inference.lone_cohorts import ACCEPTED, _roster_of, refusals
from lumos_core.flower.cryptography import FLOWER


def _secure(tiny: Callable[..., RunConfig]) -> RunConfig:
    return RunConfig.from_flat({**tiny().to_flat(), **PROTECTIONS[SECURE].changes})


def test_every_way_to_a_sum_of_one_is_refused(tiny: Callable[..., RunConfig]) -> None:
    answers = refusals(_secure(tiny), FLOWER)
    assert answers["a roster of one node"] == "1 nodes, this one needs 3"
    assert answers["a roster of two nodes"] == "2 nodes, this one needs 3"
    assert all("this" in answer and "node" in answer for answer in answers.values())
    assert ACCEPTED not in answers.values()


def test_a_roster_of_three_is_accepted(tiny: Callable[..., RunConfig]) -> None:
    """Otherwise the refusals would say nothing."""
    assert _roster_of(3, _secure(tiny), FLOWER) == ACCEPTED
