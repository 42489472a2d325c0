"""Differential privacy: bounds, noise, and what it is said to cost."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences
from lumos_core.errors import ConfigError
from lumos_core.federation.in_process import InProcessTransport
from lumos_core.federation.node import Node
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.learning.parameters import Params
from lumos_core.learning.title_start import initial_params
from lumos_core.privacy import budget, mechanisms, noise
from lumos_core.privacy.budget import Budget, epsilon, private_steps
from lumos_core.privacy.noise import Entropy
from lumos_core.runs.checkpoint import LATEST, load_checkpoint
from lumos_core.runs.history import Event
from lumos_core.wire import deltas

Tiny = Callable[..., RunConfig]
Users = Callable[..., Sequences]
NODE_LEVEL = {"weighting": "uniform"}
KEY = bytes(32)


def _delta(seed: int, size: float) -> Params:
    rng = np.random.default_rng(seed)
    shapes = {"items.weight": (300, 20), "norm.bias": (20,)}
    raw = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    return {n: a * np.float32(size / deltas.norm(raw)) for n, a in raw.items()}


def _flat(delta: Params) -> np.ndarray:
    return np.concatenate([a.ravel() for a in delta.values()]).astype(np.float64)


# ---------------------------------------------------------------- noise
@pytest.mark.parametrize("key", [None, KEY])
def test_noise_is_standard_normal(key: bytes | None) -> None:
    from scipy.stats import kstest

    drawn = Entropy(key).normal((200, 500), 3.0).ravel() / 3.0
    assert abs(drawn.mean()) < 5 / math.sqrt(drawn.size)
    assert drawn.var() == pytest.approx(1.0, abs=5 * math.sqrt(2 / drawn.size))
    assert kstest(drawn, "norm").pvalue > 1e-6
    assert np.isfinite(drawn).all()
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02


def test_keyed_noise_repeats_and_other_noise_does_not() -> None:
    first, again, other = Entropy(KEY), Entropy(KEY), Entropy(bytes([1] * 32))
    draws = [first.normal((9,), 1.0), first.normal((9,), 1.0)]
    assert np.array_equal(draws[0], again.normal((9,), 1.0))
    assert not np.array_equal(draws[0], draws[1]), "one stream, not one block"
    assert not np.array_equal(draws[0], other.normal((9,), 1.0))
    assert not np.array_equal(Entropy().normal((9,), 1.0), Entropy().normal((9,), 1.0))


def test_the_runs_seed_says_nothing_about_the_noise(tiny: Tiny) -> None:
    config = tiny(dp="central", **NODE_LEVEL)
    draws = [noise.server_entropy(config, 1).uniform(8) for _ in range(2)]
    assert not np.array_equal(*draws)
    public = config.replace(dp_noise_seed=3)
    draws = [noise.server_entropy(public, r).uniform(8) for r in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_a_nodes_noise_depends_on_its_key_and_all_it_protects(tiny: Tiny) -> None:
    """The same noise on two different values would reveal their difference."""
    config = tiny(dp="distributed", **NODE_LEVEL)
    values = {"a": np.arange(6, dtype=np.float32)}

    def first(
        config: RunConfig = config, key: bytes = KEY, name: str = "n", round: int = 1,
        values: Params = values,
    ) -> float:  # fmt: skip
        return float(noise.node_entropy(config, key, name, round, values).uniform(1)[0])

    assert first() == first(), "a repeated round must repeat its reply"
    nudged = {"a": values["a"] + np.float32([0, 0, 0, 0, 0, 1e-6])}
    others = [
        first(config.replace(dp_noise_multiplier=2.0)), first(key=bytes([1] * 32)),
        first(name="m"), first(round=2), first(values=nudged),
        first(values={"b": values["a"]}), first(values={"a": values["a"].reshape(2, 3)}),
    ]  # fmt: skip
    assert len({first(), *others}) == 8
    assert first(config.replace(rounds=99)) == first(), "as when a run is resumed for longer"
    assert first(config.replace(min_nodes=9)) == first(), "as when a node has joined"


def test_one_draw_is_never_scaled_in_two_ways(tiny: Tiny) -> None:
    """Two replies with the same draw and other standard deviations would give the noise away."""
    values = {"a": np.arange(6, dtype=np.float32)}

    def draw(config: RunConfig) -> float:
        return float(noise.node_entropy(config, KEY, "n", 1, values).uniform(1)[0])

    distributed = tiny(dp="distributed", min_nodes=3, **NODE_LEVEL)
    fewer, more = (distributed.replace(min_replies=n) for n in (2, 3))
    assert mechanisms.node_noise(fewer) != mechanisms.node_noise(more)
    assert draw(fewer) != draw(more)
    user = tiny(dp="user", min_nodes=3)  # there it scales nothing, and a repeated round must not
    assert draw(user.replace(min_replies=2)) == draw(user.replace(min_replies=3))  # release more


def test_a_nodes_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    key = noise.node_key(tmp_path / "state")
    assert len(key) == noise.KEY_BYTES
    assert noise.node_key(tmp_path / "state") == key
    assert noise.node_key(tmp_path / "other") != key
    assert (tmp_path / "state" / "noise.key").stat().st_mode & 0o777 == 0o600
    assert noise.node_key(None) != noise.node_key(None)


# ---------------------------------------------------------------- mechanisms
@pytest.mark.parametrize("dp", ["central", "distributed"])
@pytest.mark.parametrize("size", [0.1, 1e6, math.inf])
def test_no_node_moves_the_mean_further_than_its_share(tiny: Tiny, dp: str, size: float) -> None:
    config = tiny(dp=dp, dp_clip=0.5, dp_noise_multiplier=0.0, **NODE_LEVEL)
    honest = [_delta(s, 0.3) for s in range(3)]
    with np.errstate(invalid="ignore"):
        loud = mechanisms.protect(_delta(9, 1.0) | {"norm.bias": np.full(20, size, "f4")},
                               config, KEY, "x", 1)  # fmt: skip
    assert deltas.norm(loud) <= 0.5
    with_it = mechanisms.central_mean([*honest, loud], config, 1)
    without = mechanisms.central_mean([*honest, {n: 0 * a for n, a in loud.items()}], config, 1)
    assert np.linalg.norm(_flat(with_it) - _flat(without)) <= 0.5 / 4 + 1e-6


def test_the_server_clips_whatever_nodes_claim_to_have_done(tiny: Tiny) -> None:
    config = tiny(dp="central", dp_clip=0.5, dp_noise_multiplier=0.0, **NODE_LEVEL)
    mean = mechanisms.central_mean([_delta(0, 1e5), _delta(1, 0.2)], config, 1)
    expected = (_flat(deltas.clip(_delta(0, 1e5), 0.5)) + _flat(_delta(1, 0.2))) / 2
    assert np.allclose(_flat(mean), expected, atol=1e-6)


@pytest.mark.parametrize("nodes", [2, 10])
def test_central_noise_has_the_promised_size(tiny: Tiny, nodes: int) -> None:
    config = tiny(dp="central", dp_clip=0.5, dp_noise_multiplier=3.0, **NODE_LEVEL)
    replies = [_delta(s, 0.3) for s in range(nodes)]
    noise = _flat(mechanisms.central_mean(replies, config, 1)) - _flat(
        mechanisms.plain_mean(replies)
    )
    assert noise.std() == pytest.approx(3.0 * 0.5 / nodes, rel=0.05)
    assert abs(noise.mean()) < 5 * noise.std() / math.sqrt(noise.size)


def test_distributed_noise_adds_up_to_the_central_one(tiny: Tiny) -> None:
    config = tiny(
        dp="distributed", dp_clip=0.5, dp_noise_multiplier=3.0, min_replies=10, min_nodes=10,
        **NODE_LEVEL,
    )  # fmt: skip
    replies = [_delta(s, 0.3) for s in range(10)]
    noisy = [mechanisms.protect(r, config, KEY, f"n{i}", 1) for i, r in enumerate(replies)]
    each = _flat(noisy[0]) - _flat(replies[0])
    assert each.std() == pytest.approx(3.0 * 0.5 / math.sqrt(10), rel=0.05)
    total = sum(_flat(n) - _flat(r) for n, r in zip(noisy, replies, strict=True))
    assert total.std() == pytest.approx(3.0 * 0.5, rel=0.05)


def test_without_privacy_nothing_is_touched(tiny: Tiny) -> None:
    delta = _delta(0, 50.0)
    for dp in ("none", "user"):
        assert mechanisms.protect(delta, tiny(dp=dp), KEY, "n", 1) is delta


# ---------------------------------------------------------------- accounting
def test_epsilon_is_the_accountants() -> None:
    """Step by step, as Opacus documents it, over the same orders."""
    from opacus.accountants import RDPAccountant

    for z, rate, steps in ((1.0, 1.0, 20), (0.7, 0.3, 12), (4.0, 1.0, 3), (1.1, 0.05, 200)):
        accountant = RDPAccountant()
        for _ in range(steps):
            accountant.step(noise_multiplier=z, sample_rate=rate)
        expected = accountant.get_privacy_spent(delta=1e-5, alphas=list(budget.ORDERS))[0]
        assert epsilon(z, rate, steps, 1e-5) == pytest.approx(expected)


def test_epsilon_agrees_with_the_exact_gaussian_mechanism() -> None:
    """T rounds at z are one at z / √T, whose δ(ε) has a closed form (Balle & Wang, ICML 2018)."""
    from scipy.stats import norm as normal

    for z, rounds in ((1.0, 10), (2.0, 1), (8.0, 20)):
        mu = math.sqrt(rounds) / z
        found = epsilon(z, 1.0, rounds, 1e-5)
        exact = normal.cdf(mu / 2 - found / mu) - math.exp(found) * normal.cdf(-mu / 2 - found / mu)
        assert 1e-8 < exact <= 1e-5, "an upper bound, and not a wild one"


def test_epsilon_is_monotone() -> None:
    over_steps = [epsilon(1.0, 0.2, t, 1e-5) for t in (0, 1, 2, 10)]
    assert over_steps[0] == 0
    assert all(a < b for a, b in pairwise(over_steps))
    over_noise = [epsilon(z, 1.0, 10, 1e-5) for z in (0.0, 0.5, 1.0, 10.0, 100.0)]
    assert over_noise[0] == math.inf
    assert all(a > b for a, b in pairwise(over_noise))
    over_rate = [epsilon(1.0, q, 10, 1e-5) for q in (0.1, 0.5, 1.0)]
    assert all(a < b for a, b in pairwise(over_rate))


def test_every_node_pays_for_its_own_rounds(tiny: Tiny) -> None:
    budget = Budget(tiny(dp="central", **NODE_LEVEL))
    for round, nodes in enumerate((["a", "b"], ["a", "c"], ["b", "c"]), start=1):
        event = budget.spend(nodes, [])
        assert event["epsilon"] == pytest.approx(epsilon(1.0, 1.0, min(round, 2), 1e-5))
    assert budget.epsilon(more=True) == pytest.approx(epsilon(1.0, 1.0, 3, 1e-5))


@pytest.mark.parametrize(("dp", "counts"), [("central", 1), ("distributed", 3), ("user", 3)])
def test_replies_that_were_sent_and_not_used_count_where_sending_releases_them(
    tiny: Tiny, dp: str, counts: int
) -> None:
    budget = Budget(tiny(dp=dp, weighting="uniform", batch_size=1000))
    budget.spend(["a"], ["late"])
    budget.spend([], ["late"])  # a failed round
    assert len(budget.trained.get("late", ())) == counts - 1
    budget.spend(["late"], [])  # tried again: with views that were not there before, another reply
    assert len(budget.trained["late"]) == counts


@pytest.mark.parametrize(("dp", "counts"), [("central", 0), ("distributed", 1), ("user", 1)])
def test_an_attempt_that_the_server_did_not_live_to_see_counts(
    tiny: Tiny, dp: str, counts: int
) -> None:
    config = tiny(dp=dp, weighting="uniform", batch_size=1000)
    before = Budget(config)
    asked = {"event": "asked", "round": 1, **before.ask(["a", "b"])}
    done = {"event": "round", "round": 1, **before.spend(["a"], ["b"])}
    events = [asked] if "asked" in asked else []
    cut_off = Budget.of(config, events)  # killed before any reply was noted
    assert [len(cut_off.trained.get(n, ())) for n in "ab"] == [counts] * 2
    assert Budget.of(config, [*events, done]).trained == before.trained
    repeated = Budget.of(config, [*events, *events, done])  # and the round was tried again
    assert len(repeated.trained["a"]) == 1 + counts


def test_user_level_epsilon_is_that_of_the_smallest_node(tiny: Tiny) -> None:
    """Where a user is one of few, sampling hides them least."""
    config = tiny(dp="user", batch_size=8, local_epochs=2)
    budget = Budget(config, users={"small": 20, "large": 200})
    budget.spend(["small", "large"], [])
    assert private_steps(20, config) == (0.4, 6)
    assert private_steps(200, config) == (0.04, 50)
    assert private_steps(3, config) == (1.0, 2)
    assert budget.epsilon() == pytest.approx(
        max(epsilon(1.0, 0.4, 6, 1e-5), epsilon(1.0, 0.04, 50, 1e-5))
    )


def test_nobody_known_is_nobody_spared(tiny: Tiny) -> None:
    config = tiny(dp="central", max_epsilon=0.5, **NODE_LEVEL)
    assert "privacy budget" in Budget(config).exhausted([])
    assert not Budget(config.replace(max_epsilon=50.0)).exhausted([])
    assert not Budget(tiny()).exhausted(["a"])


def test_what_is_spent_stays_spent_when_a_node_grows(tiny: Tiny) -> None:
    """Ten rounds among 40 users cost what they cost, however many users come later."""
    config = tiny(dp="user", batch_size=8)
    budget = Budget(config, users={"a": 40})
    for _ in range(10):
        budget.spend(["a"], [])
    before = budget.epsilon()
    budget.users["a"] = 4_000
    after = budget.spend(["a"], [])["epsilon"]
    assert before < after < epsilon(1.0, *_times(11, private_steps(40, config)), 1e-5)


def _times(rounds: int, of_one: tuple[float, int]) -> tuple[float, int]:
    rate, steps = of_one
    return rate, rounds * steps


def test_a_node_that_says_it_is_small_ends_its_own_part_only(tiny: Tiny) -> None:
    config = tiny(dp="user", batch_size=8, max_epsilon=5.0, min_nodes=2, min_replies=2)
    budget = Budget(config, users={"a": 400, "b": 400, "liar": 9})
    assert (budget.allows("a"), budget.allows("liar")) == (True, False)
    assert not budget.exhausted(budget.users)
    assert "for 2 of 2 nodes" in Budget(config, users={"x": 9, "y": 9}).exhausted(["x", "y"])
    del budget.users["b"]
    assert "for 1 of 2 nodes" in budget.exhausted(budget.users)


# ---------------------------------------------------------------- configuration
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dp": "central"}, "needs weighting = uniform, found users"),
        ({"dp": "distributed", "weighting": "examples"}, "weighting = uniform, found examples"),
        ({"dp": "central", "weighting": "uniform", "aggregation": "median"}, "aggregation = mean"),
        ({"dp": "central", "weighting": "uniform", "clip": "norm"}, "needs clip = none"),
        ({"dp": "user", "method": "confedsrs"}, "contrasts users with each other"),
        ({"max-epsilon": 3.0}, "max-epsilon = 3 needs dp"),
        ({"dp": "user", "dp-noise-multiplier": 0.0, "max-epsilon": 3.0}, "needs dp"),
        ({"dp": "user", "weighting": "examples"}, "needs weighting = users or"),
        ({"dp": "user", "views": "shuffled"}, "views = shuffled gives them to another"),
        ({"dp-delta": 0.0}, "dp-delta"),
        ({"dp-delta": 1.0}, "dp-delta"),
    ],
)
def test_settings_without_a_proof_are_refused(changes: dict[str, Any], message: str) -> None:
    flat = {"method": "fedavg", "clip": "none", "aggregation": "mean", **changes}
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_flat(flat)


# ---------------------------------------------------------------- runs
def _federate(
    config: RunConfig, catalog: Catalog, users: Sequences, **options: Any
) -> FederationResult:
    parts = np.array_split(np.arange(len(users)), 3)
    nodes = [Node(f"node-{i}", catalog, users.subset(p), config) for i, p in enumerate(parts)]
    transport = InProcessTransport(nodes)
    return run_federation(
        config, transport, catalog.fingerprint, initial_params(config, catalog), **options
    )


def _rounds(events: list[Event]) -> list[Event]:
    return [e for e in events if e["event"] == "round"]


@pytest.mark.parametrize("dp", ["central", "distributed", "user"])
def test_a_run_stops_before_the_round_that_would_exceed_its_budget(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, tmp_path: Path, dp: str
) -> None:
    config = tiny(dp=dp, rounds=6, dp_clip=0.1, weighting="uniform", min_nodes=3, min_replies=3)
    users = toy_users(24, shortest=4)
    full = _federate(config, toy_catalog, users)
    spent = [e["epsilon"] for e in _rounds(full.events)]
    assert len(spent) == 6
    assert spent == sorted(set(spent)), "every round costs something"
    assert full.epsilon == spent[-1]
    assert full.reason == ""

    limited = config.replace(max_epsilon=(spent[2] + spent[3]) / 2)
    stopped = _federate(limited, toy_catalog, users, run_dir=tmp_path)
    assert stopped.outcome == "completed"
    assert "privacy budget" in stopped.reason
    assert [e["epsilon"] for e in _rounds(stopped.events)] == spent[:3]
    assert stopped.rounds == 3
    again = _federate(limited, toy_catalog, users, run_dir=tmp_path, resume=True)
    assert len(_rounds(again.events)) == 3, "a restart does not refill the budget"
    raised = config.replace(max_epsilon=(spent[3] + spent[4]) / 2)
    further = _federate(raised, toy_catalog, users, run_dir=tmp_path, resume=True)
    assert [e["epsilon"] for e in _rounds(further.events)] == spent[:4]


def test_without_privacy_events_say_nothing_of_it(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users
) -> None:
    result = _federate(tiny(rounds=1), toy_catalog, toy_users(9, shortest=4))
    assert result.epsilon is None
    assert not any("epsilon" in e or "privacy" in e for e in result.events)


def test_noise_without_a_public_seed_differs_from_run_to_run(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, tmp_path: Path
) -> None:
    users = toy_users(9, shortest=4)

    def last_model(config: RunConfig, name: str) -> np.ndarray:
        """Not the best one, which may be the untrained model of both runs."""
        _federate(config, toy_catalog, users, run_dir=tmp_path / name)
        return _flat(load_checkpoint(tmp_path / name / LATEST).params)

    for dp in ("central", "distributed"):
        config = tiny(dp=dp, rounds=1, weighting="uniform")
        one, other = (last_model(config, f"{dp}-{n}") for n in range(2))
        assert not np.array_equal(one, other)
        seeded = config.replace(dp_noise_seed=1)
        one, other = (last_model(seeded, f"{dp}-seeded-{n}") for n in range(2))
        assert np.array_equal(one, other)


@pytest.mark.parametrize("dp", ["distributed", "user"])
def test_a_repeated_round_sends_the_same_reply_and_no_sums(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users, tmp_path: Path, dp: str
) -> None:
    """Two replies with different noise would be two releases."""
    config = tiny(dp=dp, weighting="uniform", dropout=0.2)
    params = initial_params(config, toy_catalog)
    users = toy_users(12, shortest=4)

    def node(state: str) -> Node:
        return Node("a", toy_catalog, users, config, state=tmp_path / state)

    arrays, metrics = node("s").train(params, 1)
    again, _ = node("s").train(params, 1)
    assert np.array_equal(_flat(arrays), _flat(again))
    for other in (node("s").train(params, 2)[0], node("t").train(params, 1)[0]):
        assert not np.array_equal(_flat(arrays), _flat(other))
    told = {"examples", "loss", "contrastive", "contrastive-users", "seconds"}
    assert all(metrics[name] == 0 for name in told)
    assert metrics["users"] == 12


def test_nobody_pays_for_a_round_that_cannot_succeed(
    tiny: Tiny, toy_catalog: Catalog, toy_users: Users
) -> None:
    """One of two nodes has used its budget up, and the third is away: nobody is asked."""
    config = tiny(
        dp="distributed", rounds=5, min_nodes=2, min_replies=2, round_timeout=0.3,
        max_failed_rounds=0, **NODE_LEVEL,
    )  # fmt: skip
    config = config.replace(max_epsilon=epsilon(1.0, 1.0, 2, 1e-5) + 1e-9)
    users = toy_users(9, shortest=4)
    parts = np.array_split(np.arange(9), 3)
    nodes = [Node(f"n{i}", toy_catalog, users.subset(p), config) for i, p in enumerate(parts)]

    class Changing(InProcessTransport):
        rounds = 0

        def nodes(self) -> list[str]:
            return ["n0", "n2"] if self.rounds < 1 else ["n0", "n1"]

        def exchange(self, instructions: Any, deadline: float) -> Any:
            self.rounds += any(i.kind == "train" for i in instructions)
            return super().exchange(instructions, deadline)

    transport = Changing(nodes)
    start = initial_params(config, toy_catalog)
    result = run_federation(config, transport, toy_catalog.fingerprint, start)
    assert [len(e["privacy"]["nodes"]) for e in result.events if "privacy" in e] == [2, 2]
    (failed,) = [e for e in result.events if e["event"] == "failed-round"]
    assert "of 1 usable nodes" in failed["reason"]
    assert "privacy" not in failed
