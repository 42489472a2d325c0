"""``evaluation = last-days``: all but the newest days is trained on, those watch the model."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lumos_core import Catalog, RunConfig, simulate
from lumos_core.cli.app import app
from lumos_core.data import Sequences
from lumos_core.data.node_cache import read_kept_node
from lumos_core.data.splits import LastDays, least_history, split_of
from lumos_core.deployment.plan import dated, server_config
from lumos_core.errors import ConfigError, DataError
from lumos_core.federation.node import Node
from lumos_core.learning.evaluation import evaluate
from lumos_core.learning.model import build_model, set_params
from lumos_core.learning.parameters import Params
from lumos_core.learning.title_start import initial_params
from lumos_core.runs.folder import write_config
from lumos_core.wire.messages import Metrics

Tiny = Callable[..., RunConfig]
DAY = 86_400
START = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
DAYS = {"evaluation": "last-days", "evaluate_from": "2026-11-11"}
BOTH = {**DAYS, "test_from": "2026-11-16"}


def histories(*users: list[tuple[int, float]], unit: float = 1) -> Sequences:
    """Users by their items and days of November (from 1)."""
    plain = Sequences.from_lists([[item for item, _ in user] for user in users])
    times = [(START + (day - 1) * DAY) * unit for user in users for _, day in user]
    return Sequences(plain.user_ids, plain.items, plain.offsets, 0, np.array(times, dtype=float))


def crowd(users: int = 12) -> Sequences:
    """Users with one to four interactions on the first days, one on the 12th, one on the 20th."""
    return histories(
        *(
            [(n % 5 + i + 1, i + 1) for i in range(n % 4 + 1)] + [(9, 12), (10, 20)]
            for n in range(users)
        )
    )


# ---------------------------------------------------------------- the split
def test_windows_by_hand() -> None:
    users = histories(
        [(1, 1), (2, 5), (3, 11), (4, 12), (5, 16)],
        [(6, 10.99)],
        [(7, 11), (8, 17)],  # nothing before: neither trained on nor evaluated
        [(9, 2), (9, 30)],
    )
    split = LastDays.of(users, "2026-11-11", "2026-11-16")
    assert split.sequences.user_ids == ("0", "1", "3")
    assert [h.tolist() for h in split.train()] == [[1, 2], [6], [9]]
    seen, targets = split.validation()
    assert ([h.tolist() for h in seen], targets.tolist()) == ([[1, 2]], [3])
    seen, targets = split.test()
    assert ([h.tolist() for h in seen], targets.tolist()) == ([[1, 2, 3, 4], [9]], [5, 9])
    assert targets.dtype == np.int64


def test_without_a_test_all_newest_days_are_for_validation() -> None:
    split = LastDays.of(histories([(1, 1), (2, 20)]), "2026-11-11")
    assert split.validation()[1].tolist() == [2]
    with pytest.raises(DataError, match="without test-from"):
        split.test()


log = st.lists(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 29)), min_size=1, max_size=6).map(
        lambda user: sorted(user, key=lambda pair: pair[1])
    ),
    min_size=1,
    max_size=8,
)


@given(log, st.sampled_from([1, 1e3, 1e6, 1e9]), st.integers(2, 14), st.integers(1, 14))
def test_as_a_slow_reference_and_without_a_leak(
    users: list[list[tuple[int, int]]], unit: float, begin: int, width: int
) -> None:
    end = begin + width
    days = [[(item, day + 1) for item, day in user] for user in users]
    kept = [user for user in days if user[0][1] < begin]
    keys = (f"2026-11-{begin:02d}", f"2026-11-{end:02d}")
    if not kept:
        with pytest.raises(DataError, match="found no interaction before it"):
            LastDays.of(histories(*days, unit=unit), *keys)
        return
    split = LastDays.of(histories(*days, unit=unit), *keys)
    train = [[item for item, day in user if day < begin] for user in kept]
    assert [h.tolist() for h in split.train()] == train
    for (seen, targets), (low, high) in (
        (split.validation(), (begin, end)),
        (split.test(), (end, 99)),
    ):
        expected = [
            ([i for i, day in user if day < low], next(i for i, day in user if low <= day < high))
            for user in kept
            if any(low <= day < high for _, day in user)
        ]
        assert [(h.tolist(), int(t)) for h, t in zip(seen, targets, strict=True)] == expected


def test_times_are_needed() -> None:
    with pytest.raises(DataError, match="have no times"):
        LastDays.of(Sequences.from_lists([[1, 2]]), "2026-11-11")
    positions = Sequences.from_lists([[1, 2]])
    positions = Sequences(
        positions.user_ids, positions.items, positions.offsets, 0, np.array([0.0, 1.0])
    )
    with pytest.raises(DataError, match="which are positions and no points"):
        LastDays.of(positions, "2026-11-11")


def test_times_go_along() -> None:
    users = crowd(4)
    assert users.times is not None
    both = Sequences.concat([users.subset([2]), users.subset([0, 1])])
    assert both.times is not None
    assert both.times.tolist() == [
        *users.times[users.offsets[2] : users.offsets[3]], *users.times[: users.offsets[2]]
    ]  # fmt: skip
    short = users.without_last(1)
    assert short.times is not None
    assert set(users.times) - set(short.times) == {START + 19 * DAY}
    assert Sequences.concat([users, Sequences.from_lists([[1]])]).times is None


# ---------------------------------------------------------------- keys
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"evaluation": "last-days"}, "needs evaluate-from"),
        ({"evaluate-from": "2026-11-11"}, "has no effect with evaluation = leave-one-out"),
        ({"evaluation": "last-days", "evaluate-from": "yesterday"}, "evaluate-from.*a day such as"),
        ({"evaluation": "last-days", "evaluate-from": "20261111"}, "evaluate-from.*a day such as"),
        (
            {"evaluation": "last-days", "evaluate-from": "2026-11-11", "test-from": "2026-11-11"},
            "test-from = 2026-11-11 must be after",
        ),
    ],
)
def test_days_that_make_no_sense(keys: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_flat(keys)


def test_the_server_gives_the_day_once() -> None:
    today = date(2026, 11, 29)
    keys = dated({"evaluation": "last-days"}, today)
    assert keys["evaluate-from"] == "2026-11-22"
    assert dated({**keys, "last-days": 1}, date(2027, 1, 1)) == {**keys, "last-days": 1}, "resumed"
    assert (
        dated({"evaluation": "last-days", "last-days": "2"}, today)["evaluate-from"] == "2026-11-27"
    )
    assert dated({"rounds": 1}, today) == {"rounds": 1}
    assert least_history("last-days") == 1


def test_a_night_keeps_its_day_when_it_is_resumed(tmp_path: Path) -> None:
    catalog = shop(tmp_path / "data") / "catalog.tsv"
    night = {"evaluation": "last-days", "method": "fedavg", "semantic-start": "none"}
    begun = server_config({**night, "evaluate-from": "2026-11-11"}, 2, catalog, tmp_path / "run")
    write_config(tmp_path / "run", begun, {})
    assert server_config(night, 2, catalog, tmp_path / "run").evaluate_from == "2026-11-11"
    following = server_config(night, 2, catalog, tmp_path / "next")
    assert following.evaluate_from == dated(night)["evaluate-from"] != "2026-11-11"


# ---------------------------------------------------------------- a node
def test_a_node_evaluates_on_the_days(tiny: Tiny, toy_catalog: Catalog) -> None:
    cfg = tiny(**BOTH, dropout=0.0)
    users, params = crowd(), initial_params(cfg, toy_catalog)
    node = Node("a", toy_catalog, users, cfg)
    _, metrics = node.train(params, 1, evaluate_on="validation")
    assert metrics["users"] == 12
    assert metrics["examples"] == sum(n % 4 for n in range(12)), "only what is before the 11th"
    model = build_model(node.shape)
    set_params(model, params)
    split = split_of(cfg, users)
    for name in ("validation", "test"):
        found = node.evaluate(params, name)
        expected = evaluate(model, *getattr(split, name)())[0.0]
        assert found["eval-users"] == 12
        assert found["eval-mrr"] == pytest.approx(expected["mrr"])
    assert metrics["eval-ndcg@20"] == pytest.approx(
        node.evaluate(params, "validation")["eval-ndcg@20"]
    )


def test_few_users_in_a_window_are_not_told(tiny: Tiny, toy_catalog: Catalog) -> None:
    cfg = tiny(**DAYS)
    params = initial_params(cfg, toy_catalog)
    for users, told in ((9, 0), (10, 10)):
        found = Node("a", toy_catalog, crowd(users), cfg).evaluate(params, "validation")
        assert found["eval-users"] == told
        assert (found["eval-mrr"] > 0) is (told > 0)


def test_a_cached_node_has_its_times(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "catalog.tsv").write_text("item_id\ttitle\ni1\tOne\ni2\tTwo\n")
    (data / "interactions.tsv").write_text(
        f"user_id\titem_id\ttimestamp\nu\ti1\t{START}\nu\ti2\t{START + 15 * DAY}\n"
    )
    for _ in range(2):
        _, users = read_kept_node(data, tmp_path / "state", least_history("last-days"))
        assert LastDays.of(users, "2026-11-11").validation()[1].tolist() == [2]


# ---------------------------------------------------------------- a run
def test_a_run_is_watched_on_the_newest_days(tiny: Tiny, toy_catalog: Catalog) -> None:
    cfg = tiny(rounds=3, round_timeout=60.0, **DAYS)
    result = simulate(cfg, toy_catalog, {"a": crowd(), "b": crowd(), "few": crowd(3)})
    told = [e for e in result.events if e["event"] == "evaluation"]
    assert {e["split"] for e in told} == {"validation"}
    assert {e["users"] for e in told} == {24}, "not the three of the small node"
    assert (result.outcome, result.test) == ("completed", {})
    assert result.best_round == max(told, key=lambda e: e["selection"])["round"]
    tested = simulate(tiny(rounds=1, round_timeout=60.0, **BOTH), toy_catalog, {"a": crowd()})
    assert 0 < tested.test["mrr"] < 1


def test_a_node_without_a_test_is_given_the_result_and_reports_nothing(
    tiny: Tiny, toy_catalog: Catalog
) -> None:
    node = Node("a", toy_catalog, crowd(), tiny(**DAYS))
    assert node.evaluate(initial_params(node.config, toy_catalog), "test") == {}


def test_nobody_has_enough_users(tiny: Tiny, toy_catalog: Catalog) -> None:
    cfg = tiny(rounds=2, round_timeout=60.0, **DAYS)
    result = simulate(cfg, toy_catalog, {"a": crowd(3), "b": crowd(4)})
    assert (result.outcome, result.best_round, result.validation) == ("completed", 2, {})


def test_a_test_that_nobody_has_enough_users_for_fails_no_run(
    tiny: Tiny, toy_catalog: Catalog
) -> None:
    """Every node has answered: it is only that nothing has measured the model."""
    cfg = tiny(rounds=2, round_timeout=60.0, **BOTH)
    result = simulate(cfg, toy_catalog, {name: crowd(6) for name in "abc"})
    assert (result.outcome, result.reason) == ("completed", "")
    assert (result.best_round, result.validation, result.test) == (2, {}, {})


def test_a_test_that_nobody_answers_fails_the_run(
    tiny: Tiny, toy_catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    nonsense = {"eval-users": -1.0}
    honest = Node.evaluate

    def answer(self: Node, params: Params, split: str, title_weight: float = 0.0) -> Metrics:
        return nonsense if split == "test" else honest(self, params, split, title_weight)

    monkeypatch.setattr(Node, "evaluate", answer)
    cfg = tiny(rounds=1, round_timeout=60.0, **BOTH)
    result = simulate(cfg, toy_catalog, {name: crowd(6) for name in "abc"})
    assert (result.outcome, result.test) == ("failed", {})
    assert result.reason == "no node answered the final evaluation"


def shop(folder: Path, *rows: str) -> Path:
    (folder / "node-0").mkdir(parents=True)
    items = "".join(f"i{n}\ttoy {n}\n" for n in range(1, 13))
    users = crowd()
    assert users.times is not None
    lines = [
        f"{users.user_ids[u]}\ti{item}\t{int(users.times[users.offsets[u] + n])}"
        for u in range(len(users))
        for n, item in enumerate(users[u])
    ]
    for place in (folder, folder / "node-0"):
        (place / "catalog.tsv").write_text("item_id\ttitle\n" + items)
    text = "\n".join(["user_id\titem_id\ttimestamp", *(rows or lines)]) + "\n"
    (folder / "node-0" / "interactions.tsv").write_text(text)
    (folder / "dataset.json").write_text(json.dumps({"name": "d", "nodes": 1}))
    return folder


def simulated(data: Path, run: Path, *more: str) -> list[str]:
    return [
        "simulate", "--engine", "in-process", "--run-dir", str(run), "--data", str(data),
        "--method", "fedavg", "-c", "semantic-start=none", "-c", "dim=8", "-c", "min-replies=1",
        "-c", "evaluation=last-days", *more,
    ]  # fmt: skip


def test_the_command_and_its_resumption(tmp_path: Path) -> None:
    data, run = shop(tmp_path / "data"), tmp_path / "run"
    days = ["-c", "evaluate-from=2026-11-11"]
    found = CliRunner().invoke(app, simulated(data, run, "--rounds", "1", *days))
    assert found.exit_code == 0, found.output
    assert "is best, validation HR@20" in found.output
    summary = json.loads((run / "summary.json").read_text())
    assert summary["validation"]
    assert summary["test"] == {}
    assert "was best on validation" in (run / "report.md").read_text()
    again = CliRunner().invoke(app, simulated(data, run, "--rounds", "2", "--resume"))
    assert again.exit_code == 0, again.output
    assert json.loads((run / "summary.json").read_text())["rounds"] == 2


def test_the_command_without_enough_users_in_the_windows(tmp_path: Path) -> None:
    data, run = shop(tmp_path / "data"), tmp_path / "run"
    days = ["-c", "evaluate-from=2026-11-21", "-c", "test-from=2026-11-25"]  # of nobody
    found = CliRunner().invoke(app, simulated(data, run, "--rounds", "1", *days))
    assert found.exit_code == 0, found.output
    assert "round 1 is the last; nothing has measured it" in found.output
    assert "evaluation = none" not in found.output


def test_positions_are_refused_before_any_training(tmp_path: Path) -> None:
    data = shop(tmp_path / "data", *(f"u{n}\ti{t + 1}\t{t}" for n in range(3) for t in range(5)))
    found = CliRunner().invoke(
        app, simulated(data, tmp_path / "run", "-c", "evaluate-from=2026-11-11")
    )
    assert found.exit_code != 0
    assert "which are positions" in str(found.exception)


@pytest.mark.parametrize("command", ["attack", "audit", "train-central"])
def test_commands_that_measure_by_leave_one_out_refuse_it(tmp_path: Path, command: str) -> None:
    data, out = shop(tmp_path / "data"), tmp_path / "out"
    keys = ["-c", "evaluation=last-days", "-c", "evaluate-from=2026-11-11"]
    found = CliRunner().invoke(app, [command, str(data), "--out", str(out), *keys])
    assert "evaluation = last-days: this command measures models" in str(found.exception)
    assert not out.exists()
