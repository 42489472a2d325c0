"""One run: all variants rank the same users, and say whether they converged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.cli.options import unmasked
from lumos_core.config import RunConfig
from lumos_core.data.layout import shared_state
from lumos_core.data.pooled import pool
from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.data.splits import split_of
from lumos_core.errors import ConfigError, DataError
from lumos_core.experiments.comparison import compare, variant_runs
from lumos_core.experiments.comparison.comparison_table import comparison_table
from lumos_core.experiments.comparison.packed_ranks import unpack_counts, unpack_ranks
from lumos_core.experiments.comparison.variant_runs import (
    Ground,
    add_user_facts,
    epochs_and_patience,
)
from lumos_core.experiments.jobs import find_results, run_job
from lumos_core.experiments.results_file import Result, ResultsFile
from lumos_core.federation import simulate
from lumos_core.learning.metrics import means, ranking_sums
from lumos_core.privacy import mechanisms

SMALL = RunConfig(rounds=2, local_epochs=1, dim=8, semantic_start="none", views="tfidf")
TRAINED = ["fedavg", "centralised", "local", "lumos-tfidf-views"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 users, 30 items, three nodes."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [f"u{u}\ti{(u * 3 + t * (1 + u % 3)) % 30}\t{t}" for u in range(36) for t in range(6)]
    (folder / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + "\n".join(rows))
    titles = [f"i{i}\tthing number {i} of {'paper' if i % 2 else 'tin'}" for i in range(30)]
    (folder / "items.tsv").write_text("item_id\ttitle\n" + "\n".join(titles))
    prepare(folder, folder / "out", nodes=3, seed=0, k_core=0)
    return folder / "out"


def run(data: Path, name: str, seed: int = 0, base: RunConfig = SMALL, **more: Any) -> Result:
    (job,) = compare.plan_comparison(data, [name], [seed], base, **more)
    result: Result = json.loads(json.dumps(run_job(job)))
    return result


# ---------------------------------------------------------------- ranks
@pytest.mark.parametrize("name", [*TRAINED, "popularity", "markov-titles"])
@pytest.mark.parametrize("partition", ["stored", "drawn"])
def test_the_metrics_of_a_result_follow_from_its_ranks(
    data: Path, name: str, partition: str
) -> None:
    result = run(data, name, partition=partition)
    assert result.get("partition", "stored") == partition
    assert result["users"] == 36
    for split in ("validation", "test"):
        ranks = unpack_ranks(result["ranks"][split])
        assert ranks.shape == (36,)
        assert means(ranking_sums(ranks)) == pytest.approx(result[split], abs=1e-12)


@pytest.mark.parametrize("partition", ["stored", "drawn"])
def test_ranking_in_one_place_agrees_with_what_the_nodes_report(
    data: Path, partition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, dict[str, float]]] = []
    federate = simulate.simulate

    def seen(*args: Any, **more: Any) -> Any:
        found = federate(*args, **more)
        reported.append({"validation": found.validation, "test": found.test})
        return found

    monkeypatch.setattr(simulate, "simulate", seen)
    result = run(data, "lumos-tfidf-views", partition=partition)
    for split in ("validation", "test"):
        assert result[split] == pytest.approx(reported[0][split], rel=1e-6)


def test_a_nodes_own_model_ranks_its_users(data: Path) -> None:
    """The ranks of local are in the order of the pooled users, whatever node they are on."""
    catalog, nodes = load_prepared(data)
    users = pool(data, catalog, nodes).users
    ground = Ground.of(data, "drawn", 5)
    config = SMALL.replace(method="fedavg", seed=5)
    _, ranks = variant_runs._local(config, ground)
    assert ranks is not None
    (params, _), *_ = variant_runs._trained(config, ground, [ground.nodes["node-0"]])
    own, _ = variant_runs.final_ranks(config, params, ground.nodes["node-0"], ground.catalog)
    place = [users.user_ids.index(user) for user in ground.nodes["node-0"].user_ids]
    assert ranks["test"][place].tolist() == own["test"].tolist()


def test_counts_of_targets_are_of_the_data_and_not_of_the_run(data: Path) -> None:
    found = {run(data, n, s)["target_uses"] for n, s in (("popularity", 0), ("fedavg", 1))}
    assert len(found) == 1


@pytest.mark.parametrize(("partition", "same"), [("stored", True), ("drawn", False)])
def test_results_say_how_long_histories_are_and_who_has_them(
    data: Path, partition: str, same: bool
) -> None:
    one, other = (run(data, "popularity", seed, partition=partition) for seed in (0, 1))
    assert one["history_lengths"] == other["history_lengths"]
    assert (one["owners"] == other["owners"]) == same
    ground = Ground.of(data, partition, 1)
    users = ground.pooled.users
    assert unpack_counts(one["history_lengths"]).tolist() == (users.lengths - 2).tolist()
    for user, owner in zip(users.user_ids, unpack_counts(other["owners"]), strict=True):
        assert user in ground.nodes[f"node-{owner}"].user_ids


@pytest.mark.parametrize("partition", ["stored", "drawn", "users"])
def test_earlier_results_get_what_the_data_say_of_their_users(
    data: Path, tmp_path: Path, partition: str
) -> None:
    file = ResultsFile(tmp_path, SMALL)
    new = [run(data, "popularity", seed, partition=partition) for seed in (0, 1)]
    facts = ("target_uses", "history_lengths", "owners")
    old = [{key: value for key, value in result.items() if key not in facts} for result in new]
    old[1]["target_counts"] = "packed otherwise"
    unranked = {key: value for key, value in old[0].items() if key != "ranks"}
    foreign = {**old[0], "interactions": "other"}
    for result in (*old, unranked, foreign):
        file.append(result)
    add_user_facts(file, data)
    assert list(file.read().values()) == [*new, unranked, foreign]
    content = file.path.read_bytes()
    add_user_facts(file, data)
    assert file.path.read_bytes() == content


# ---------------------------------------------------------------- one user a client
@pytest.mark.parametrize("name", ["fedavg", "lumos-tfidf-views"])
def test_with_one_user_a_client_all_users_are_ranked_and_share_a_store(
    data: Path, name: str
) -> None:
    base = SMALL.replace(fraction=0.5, patience=0)
    result = run(data, name, base=base, partition="users")
    assert (result["partition"], result["nodes"], result["users"]) == ("users", 36, 36)
    assert "owners" not in result
    assert len(unpack_counts(result["history_lengths"])) == 36
    for split in ("validation", "test"):
        ranks = unpack_ranks(result["ranks"][split])
        assert means(ranking_sums(ranks)) == pytest.approx(result[split], abs=1e-12)
    if name != "fedavg":
        assert (shared_state(data) / "views.sqlite").exists()


# ---------------------------------------------------------------- partition
def test_each_seed_draws_other_nodes_of_the_same_users(data: Path) -> None:
    first, again, other = (Ground.of(data, "drawn", seed) for seed in (1, 1, 2))
    stored = Ground.of(data, "stored", 1)
    assert first.pooled.users.user_ids == other.pooled.users.user_ids
    for ground in (first, other):
        dealt = [user for users in ground.nodes.values() for user in users.user_ids]
        assert sorted(dealt) == sorted(stored.pooled.users.user_ids)
        assert [len(users) for users in ground.nodes.values()] == [12, 12, 12]
    nodes = [[users.user_ids for users in g.nodes.values()] for g in (first, again, other, stored)]
    assert nodes[0] == nodes[1]
    assert nodes[0] != nodes[2]
    assert nodes[0] != nodes[3]


def test_a_history_stays_whole_when_it_is_dealt_out(data: Path) -> None:
    ground = Ground.of(data, "drawn", 3)
    whole = dict(zip(ground.pooled.users.user_ids, ground.pooled.users, strict=True))
    for users in ground.nodes.values():
        for user, items in zip(users.user_ids, users, strict=True):
            assert np.array_equal(items, whole[user])


def test_drawn_nodes_share_one_store_of_views(data: Path) -> None:
    run(data, "lumos-tfidf-views", 0, partition="drawn")
    assert (data / "views" / "views.sqlite").is_file()
    size = (data / "views" / "views.sqlite").stat().st_size
    run(data, "lumos-tfidf-views", 1, partition="drawn")
    assert (data / "views" / "views.sqlite").stat().st_size == size  # nothing is written twice


def test_a_drawn_run_is_not_taken_for_a_stored_one(data: Path) -> None:
    (stored,) = compare.plan_comparison(data, ["popularity"], [0], SMALL)
    (drawn,) = compare.plan_comparison(data, ["popularity"], [0], SMALL, "drawn")
    results = [run_job(stored)]
    assert find_results([stored, drawn], results) == [results[0], None]
    results = [run_job(drawn)]
    assert find_results([stored, drawn], results) == [None, results[0]]


# ---------------------------------------------------------------- convergence
def test_patience_gives_all_the_same_amount_of_training() -> None:
    config = RunConfig(rounds=40, local_epochs=3, patience=5)
    assert epochs_and_patience(config) == (120, 15)
    assert epochs_and_patience(config.replace(evaluate_every=2)) == (120, 30)
    assert epochs_and_patience(config.replace(patience=0)) == (
        variant_runs.CENTRALISED_MAX_EPOCHS, variant_runs.CENTRALISED_PATIENCE
    )  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_a_run_says_whether_patience_ended_it(data: Path, name: str) -> None:
    still = SMALL.replace(learning_rate=1e-9, rounds=9, patience=3, dropout=0.0)
    result = run(data, name, base=still)
    assert result["converged"] is True
    trained = len(result["bytes_up"]) if "bytes_up" in result else result["epochs"]
    assert trained < 9
    capped = run(data, name, base=SMALL.replace(rounds=1, patience=3))
    assert capped["converged"] is False


def test_fixed_rounds_are_not_convergence(data: Path) -> None:
    assert run(data, "fedavg")["converged"] is False


def test_a_yardstick_has_nothing_to_converge_and_tells_what_it_chose(data: Path) -> None:
    result = run(data, "markov-titles")
    assert "converged" not in result
    assert set(result["chosen"]) == {"half-life", "title-weight"}


@pytest.mark.parametrize("variant", ["popularity", "fedavg", "centralised"])
def test_results_say_what_is_suggested(data: Path, variant: str) -> None:
    facts = run(data, variant)["suggested"]
    assert 0 < facts["coverage"] <= 1
    assert facts["mean_uses"] > 0


# ---------------------------------------------------------------- a split by time
DAY = 86_400
BY_TIME = SMALL.replace(evaluation="last-days", evaluate_from="2024-01-21", test_from="2024-02-01")


@pytest.fixture(scope="module")
def dated_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 users on three nodes: 40 who buy every ten days from 1 to 6 January on, and five who buy
    once, in January."""
    folder = tmp_path_factory.mktemp("dated")
    start = 1_704_067_200  # 2024-01-01
    rows = [
        f"u{u:02d}\ti{(u * 3 + t * (1 + u % 3)) % 30}\t{start + (u % 6 + 10 * t) * DAY}"
        for u in range(40)
        for t in range(5)
    ]
    rows += [f"v{u}\ti{u}\t{start + u * DAY}" for u in range(5)]
    (folder / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + "\n".join(rows))
    titles = [f"i{i}\tthing number {i} of {'paper' if i % 2 else 'tin'}" for i in range(30)]
    (folder / "items.tsv").write_text("item_id\ttitle\n" + "\n".join(titles))
    prepare(folder, folder / "out", nodes=3, seed=0, k_core=0, min_interactions=1)
    return folder / "out"


@pytest.mark.parametrize("name", ["fedavg", "centralised", "popularity", "markov-titles"])
@pytest.mark.parametrize("partition", ["stored", "drawn"])
def test_a_split_by_time_ranks_those_who_come_back(
    dated_data: Path, name: str, partition: str
) -> None:
    result = run(dated_data, name, base=BY_TIME, partition=partition)
    assert result["users"] == 45
    for split in ("validation", "test"):
        ranks = unpack_ranks(result["ranks"][split])
        assert ranks.shape == (40,)
        assert means(ranking_sums(ranks)) == pytest.approx(result[split], abs=1e-12)
    lengths = unpack_counts(result["history_lengths"])
    assert lengths.tolist() == [2] * 40, "1 and 11 January are before the 21st"
    assert unpack_counts(result["owners"]).shape == (40,)
    table = comparison_table([result], name)
    assert "before 2024-01-21, validation up to 2024-02-01 (40 users), test" in table


def test_what_comes_later_changes_nothing_that_was_counted(dated_data: Path) -> None:
    """Popularity of a split by time is that of the training window alone."""
    catalog, nodes = load_prepared(dated_data, 1)
    split = split_of(BY_TIME, pool(dated_data, catalog, nodes, 1).users)
    seen = np.bincount(split.train().items, minlength=len(catalog) + 1)[1:]
    histories, targets = split.test()
    for history, target, rank in zip(
        histories,
        targets,
        unpack_ranks(run(dated_data, "popularity", base=BY_TIME)["ranks"]["test"]),
        strict=True,
    ):
        rivals = [seen[i - 1] for i in range(1, 31) if i != target and i not in history]
        own = seen[target - 1]
        expected = 1 + sum(r > own for r in rivals) + sum(r == own for r in rivals) / 2
        assert rank == expected


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"test_from": "2025-01-01"}, "found no user .* one in the test window"),
        ({"evaluate_from": "2023-01-01"}, "found no interaction before it"),
    ],
)
def test_a_window_without_users_is_refused(
    dated_data: Path, keys: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Ground.of(dated_data, "stored", 0, BY_TIME.replace(**keys))


def test_local_models_have_no_windows(dated_data: Path) -> None:
    with pytest.raises(ConfigError, match="variant 'local' with evaluation = last-days"):
        run(dated_data, "local", base=BY_TIME)


# ---------------------------------------------------------------- privacy
@pytest.mark.parametrize(("least", "expected"), [(2, 2), (4, 3)])
def test_a_nodes_noise_is_that_of_the_configuration(
    data: Path, monkeypatch: pytest.MonkeyPatch, least: int, expected: int
) -> None:
    """With ``dp = distributed`` it is the share of one of ``min-replies`` nodes."""
    among: set[int] = set()

    def noted(config: RunConfig) -> float:
        among.add(config.min_replies)
        return 0.0

    monkeypatch.setattr(mechanisms, "node_noise", noted)
    base = SMALL.replace(dp="distributed", weighting="uniform", min_nodes=4, min_replies=least)
    run(data, "fedavg", base=base)
    assert among == {expected}, "there are three nodes"


def test_without_shares_of_noise_one_reply_is_enough(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RunConfig] = []

    def simulated(config: RunConfig, *args: Any, **more: Any) -> None:
        seen.append(config)
        raise InterruptedError

    monkeypatch.setattr(simulate, "simulate", simulated)
    with pytest.raises(InterruptedError):
        run(data, "fedavg", base=SMALL)
    assert (seen[0].min_nodes, seen[0].min_replies) == (3, 1)


@pytest.mark.parametrize("command", ["compare", "attack", "audit"])
def test_secure_aggregation_is_refused_before_anything_runs(
    data: Path, tmp_path: Path, command: str
) -> None:
    """Whatever min-replies is: its own errors would be about that."""
    out, three = tmp_path / "out", ["-c", "min-nodes=3", "-c", "min-replies=3"]
    for more in ([], three):
        words = [command, str(data), "--out", str(out), "-c", "secure-aggregation=true", *more]
        found = CliRunner().invoke(app, words)
        assert isinstance(found.exception, ConfigError)
        assert "secure-aggregation = true: this command" in str(found.exception)
        assert "leave it out" in str(found.exception)
        assert not out.exists()
    unmasked(["secure-aggregation=false"])
    unmasked(["secure-aggregation=perhaps"])  # the configuration refuses it in its own words
