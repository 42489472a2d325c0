"""What all runs of a node have spent: added as RDP, kept across restarts, bounded in size."""

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.privacy import node_budget
from lumos_core.privacy.budget import composed, epsilon, private_steps
from lumos_core.privacy.node_budget import RUNS, Account, AccountError, Spent, Training, sure_noise

NODE = NodeConfig(data="d")
DELTA = 1e-5
DISTRIBUTED = {"dp": "distributed", "weighting": "uniform"}


def user_run(**changes: object) -> RunConfig:
    return RunConfig(**{"dp": "user", "batch_size": 4, "local_epochs": 1, **changes})


def spent_by(*trainings: tuple[str, Training]) -> Spent:
    spent = Spent()
    for run, training in trainings:
        spent = spent.after_training(run, training)
    return spent


# ---------------------------------------------------------------- one training
def test_a_training_of_users_costs_what_the_run_says() -> None:
    config = user_run(dp_noise_multiplier=0.8, local_epochs=2)
    rate, steps = private_steps(10, config)
    spent = spent_by(("a", Training.of(config, NODE, 10)))
    assert spent.epsilon(DELTA) == pytest.approx(epsilon(0.8, rate, steps, DELTA))


@pytest.mark.parametrize(
    ("changes", "node", "sure"),
    [
        ({"dp": "none"}, {}, 0.0),
        ({"dp": "user", "dp_noise_multiplier": 2.0}, {}, 2.0),
        ({"dp": "user", "dp_noise_multiplier": 2.0, "dp_noise_seed": 0}, {}, 0.0),
        ({"dp": "central", "weighting": "uniform", "dp_noise_multiplier": 2.0}, {}, 2.0),
        ({**DISTRIBUTED, "min_nodes": 4, "min_replies": 4}, {}, 0.5),
        (
            {**DISTRIBUTED, "min_nodes": 12, "min_replies": 12, "secure_aggregation": True},
            {"secagg_min_nodes": 3},
            0.5,
        ),
        (
            {**DISTRIBUTED, "min_nodes": 4, "min_replies": 4, "secure_aggregation": True},
            {"secagg_min_nodes": 9},
            1.0,
        ),
    ],
)
def test_the_noise_that_a_node_can_be_sure_of(changes, node, sure) -> None:
    """Whatever min-replies a server claims: alone a node has its own share of the noise only."""
    found = sure_noise(RunConfig(**changes), NodeConfig(data="d", **node))
    assert found == pytest.approx(sure)


def test_one_user_can_move_a_shared_delta_by_twice_its_norm() -> None:
    config = RunConfig(**DISTRIBUTED, min_nodes=1, min_replies=1, dp_noise_multiplier=3.0)
    spent = spent_by(("a", Training.of(config, NODE, 5)))
    assert spent.epsilon(DELTA) == pytest.approx(epsilon(1.5, 1.0, 1, DELTA))


@pytest.mark.parametrize(
    "changes",
    [{}, {"dp": "central", "weighting": "uniform"}, {"dp": "user", "dp_noise_multiplier": 0.0}],
)
def test_what_a_node_cannot_know_is_counted_apart(changes) -> None:
    spent = spent_by(("a", Training.of(RunConfig(**changes), NODE, 5)))
    assert (spent.trainings, spent.uncounted, spent.epsilon(DELTA)) == (1, 1, 0.0)


def test_counting_imports_neither_torch_nor_all_of_opacus() -> None:
    """A node starts a process for every message."""
    code = (
        "import sys\n"
        "from lumos_core.privacy.node_budget import Spent, Training\n"
        "assert Spent().after_training('a', Training(2.0, 0.1, 9)).epsilon(1e-5) > 0\n"
        "print([name for name in ('torch', 'opacus') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env=os.environ | {"PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert out.stdout.strip() == "[]"


# ---------------------------------------------------------------- all runs
def test_runs_are_composed_order_by_order() -> None:
    """Less than the sum of their ε, more than the larger, and what one accountant says."""
    one, two = Training(2.0, 0.1, 40), Training(2.0, 0.3, 10)
    spent = spent_by(("a", one), ("b", two))
    alone = [spent.epsilon_of(run, DELTA) for run in "ab"]
    assert alone == pytest.approx([epsilon(2.0, 0.1, 40, DELTA), epsilon(2.0, 0.3, 10, DELTA)])
    assert max(alone) < spent.epsilon(DELTA) < sum(alone)
    assert spent.epsilon(DELTA) == pytest.approx(composed(2.0, {0.1: 40, 0.3: 10}, DELTA))


def test_the_sum_survives_restarts(tmp_path: Path) -> None:
    for run in "ab":
        Account(tmp_path).change(lambda spent, run=run: spent.after_training(run, Training(2.0)))
    found = Account(tmp_path).read()
    assert found.epsilon(DELTA) == pytest.approx(epsilon(2.0, 1.0, 2, DELTA))
    assert [run.run for run in found.runs] == ["a", "b"]
    assert stat.S_IMODE((tmp_path / node_budget.FILE).stat().st_mode) == 0o600


def test_the_file_has_a_bound_and_the_sums_forget_nothing(tmp_path: Path) -> None:
    account = Account(tmp_path)
    # Sampling costs half a second a training here, so only a few of them sample.
    costs = {n: Training(1.0 + n / 100, 1.0 if n % RUNS else 0.5, 3) for n in range(2 * RUNS)}
    sizes = []
    for n, training in costs.items():
        account.change(lambda spent, n=n, t=training: spent.after_training(str(n), t))
        sizes.append(account.path.stat().st_size)
    found = account.read()
    assert [run.run for run in found.runs] == [str(n) for n in range(RUNS, 2 * RUNS)]
    assert found.trainings == 2 * RUNS
    assert sizes[-1] < 1.05 * sizes[RUNS]
    everything = [sum(t.rdp()[at] for t in costs.values()) for at in (0, 50, -1)]
    assert [found.rdp[at] for at in (0, 50, -1)] == pytest.approx(everything)


def test_a_new_day_forgets_the_day_s_counts_and_nothing_else(tmp_path, monkeypatch) -> None:
    account = Account(tmp_path)
    monkeypatch.setattr(node_budget, "today", lambda: "2026-01-01")
    account.change(lambda s: s.after_training("a", Training(2.0)))
    account.change(lambda s: s.model_copy(update={"bytes_today": 7}))
    account.change(lambda s: s.with_run(s.run("a").model_copy(update={"too_long": 5.0})))
    before = account.read()
    assert (before.trainings_today, before.bytes_today, before.run("a").too_long) == (1, 7, 5.0)
    monkeypatch.setattr(node_budget, "today", lambda: "2026-01-02")
    after = account.read()
    assert (after.trainings_today, after.bytes_today, after.run("a").too_long) == (0, 0, 0.0)
    assert (after.trainings, after.rdp, after.run("a").rdp) == (1, before.rdp, before.run("a").rdp)


def test_orders_of_another_version_only_make_epsilon_larger(tmp_path: Path) -> None:
    account = Account(tmp_path)
    account.change(lambda spent: spent.after_training("a", Training(2.0)))
    exact = account.read().epsilon(DELTA)
    stored = json.loads(account.path.read_text())
    stored["orders"], stored["rdp"] = stored["orders"][::3], stored["rdp"][::3]
    stored["runs"][0]["rdp"] = stored["runs"][0]["rdp"][::3]
    account.path.write_text(json.dumps(stored))
    found = account.read()
    assert exact <= found.epsilon(DELTA) < math.inf
    assert len(found.rdp) == len(found.orders) == len(found.run("a").rdp)
    account.change(lambda spent: spent.after_training("a", Training(2.0)))
    assert account.read().epsilon(DELTA) > found.epsilon(DELTA)


# ---------------------------------------------------------------- fails closed
@pytest.mark.parametrize("content", ["{", '{"rdp": [1.0]}', '{"trainings": "many"}', "[]"])
def test_a_damaged_file_is_never_taken_for_an_empty_one(tmp_path: Path, content: str) -> None:
    account = Account(tmp_path)
    account.path.write_text(content)
    for use in (account.read, lambda: account.change(lambda spent: spent)):
        with pytest.raises(AccountError, match=r"spent\.json.*delete it if ε"):
            use()
    assert account.path.read_text() == content


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    with pytest.raises(AccountError, match="cannot be written"):
        Account(tmp_path / "state").change(lambda spent: spent)


def test_processes_that_train_at_a_time_are_all_counted(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from lumos_core.privacy.node_budget import Account, Training\n"
        "for _ in range(20):\n"
        "    Account(Path(sys.argv[1])).change(lambda s: s.after_training('a', Training()))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, env=os.environ | {"PYTHONPATH": ":".join(sys.path)})
               for _ in range(2)]  # fmt: skip
    assert [process.wait(60) for process in running] == [0, 0]
    assert Account(tmp_path).read().trainings == 40
