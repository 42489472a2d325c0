"""`lumos audit --active` from start to end: rows, ε, refusing floors, intervals, files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lumos_core.config import RunConfig
from lumos_core.data.prepare import prepare
from lumos_core.data.sample import bundled_sample
from lumos_core.errors import ConfigError
from lumos_core.experiments.inference import member_audit
from lumos_core.experiments.inference.active_audit import (
    _costs,
    active_audits,
    interval,
    protected_config,
)
from lumos_core.experiments.inference.active_settings import PLAN, PROTECTIONS
from lumos_core.experiments.inference.active_table import active_tables, epsilon_text
from lumos_core.privacy.budget import composed

Tiny = Callable[..., RunConfig]


def test_intervals_hold_the_mean_and_stay_within_shares() -> None:
    assert interval([0.5]) == (0.5, 0.5, 0.5)
    mean, low, high = interval([0.4, 0.5, 0.6])
    assert (mean, low, high) == pytest.approx((0.5, 0.5 - 0.2484, 0.5 + 0.2484), abs=1e-3)
    assert interval([0.9, 1.0, 1.0])[2] == 1.0
    narrow = interval([0.4, 0.5, 0.6] * 5)
    assert narrow[1] > low


def test_epsilon_is_what_a_node_counts_and_grows_with_rounds(tiny: Tiny) -> None:
    noise = "user-level noise 2"
    once = _costs(tiny(), 10, "marked", noise)
    often = _costs(tiny(), 10, "again, 50 rounds", noise)
    assert once["epsilon"] == pytest.approx(composed(2.0, {1.0: 1}, 1e-5))
    assert often["epsilon"] == pytest.approx(composed(2.0, {1.0: 50}, 1e-5))
    assert _costs(tiny(), 10, "marked", "plain")["epsilon"] is None


def test_each_floor_refuses_what_it_is_for(tiny: Tiny) -> None:
    def refusing(move: str, protection: str) -> set[str]:
        return set(_costs(tiny(), 10, move, protection)["refused_by"])

    everything = {"require-secure-aggregation", "allowed-dp = user", "max-run-epsilon = 8"}
    assert refusing("marked", "plain") == everything
    secure = everything - {"require-secure-aggregation"}
    assert refusing("marked", "secure aggregation") == secure
    assert refusing("marked", "user-level noise 2") == {"require-secure-aggregation"}
    repeated = refusing("again, 50 rounds", "user-level noise 2")
    assert repeated == {"require-secure-aggregation", "max-run-epsilon = 8"}


def test_a_move_sets_the_configuration_of_the_run(tiny: Tiny) -> None:
    config = protected_config(tiny(local_epochs=3), "marked", "plain")
    assert (config.local_epochs, config.dropout, config.item_rows) == (1, 0.0, "met")
    assert protected_config(tiny(local_epochs=3), "watch", "plain").local_epochs == 3
    assert protected_config(tiny(), "marked", "user-level noise 2").item_rows == "all"


def test_too_few_users_are_refused_with_how_many_would_do(tmp_path: Path, tiny: Tiny) -> None:
    prepare(bundled_sample(), tmp_path, nodes=2, seed=0)
    with pytest.raises(ConfigError, match=r"--users 50: 708 users are too few .* choose 29 or"):
        active_audits(tmp_path, tiny(), 50, trials=1, seeds=[0])


def test_the_command_writes_results_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lumos_core.cli.audit import audit_command

    monkeypatch.setattr(member_audit, "MEMBER_SETTINGS", {"none": {}})
    monkeypatch.setattr(member_audit.audit_membership, "__kwdefaults__", {
        **(member_audit.audit_membership.__kwdefaults__ or {}), "rounds": (1,)
    })  # fmt: skip
    prepare(bundled_sample(), tmp_path / "data", nodes=2, seed=0)
    audit_command(
        tmp_path / "data", tmp_path / "out", users="3", trials=2, active=True,
        moves="marked; sybils", seeds="0,1",
        config=["method=fedavg", "semantic-start=none", "dim=8", "max-len=10", "local-epochs=1"],
    )  # fmt: skip
    written = json.loads((tmp_path / "out" / "active.json").read_text())
    rows = written["rows"]
    assert (written["seeds"], written["users"], written["config"]["dim"]) == ([0, 1], 3, 8)
    assert {"torch", "numpy"} < set(written["versions"])
    planned = [(move, name) for move in ("marked", "sybils") for name in PLAN[move]]
    assert [(row["move"], row["protection"]) for row in rows] == planned
    marked = next(r for r in rows if r["move"] == "marked" and r["protection"] == "plain")
    assert marked["targets"] == len(marked["recovered_values"]) == 4
    assert marked["recovered"][0] == pytest.approx(np.mean(marked["recovered_values"]))
    assert marked["recovered"][0] > 3 * marked["chance"][0]
    table = (tmp_path / "out" / "active.md").read_text()
    assert table == active_tables(rows, written["membership"], written["refusals"])
    assert "The most is recovered" in (tmp_path / "out" / "report.html").read_text()
    for name in PROTECTIONS:
        assert name in table
    with pytest.raises(ConfigError, match=r"--moves 'steal': unknown; known are: watch;"):
        audit_command(tmp_path / "data", tmp_path / "out", active=True, moves="steal")
    with pytest.raises(ConfigError, match="expected one positive number"):
        audit_command(tmp_path / "data", tmp_path / "out", active=True, users="3,4")


def test_epsilon_is_shown_with_three_digits() -> None:
    assert [epsilon_text(e) for e in (None, 8.0832, 166.03)] == ["–", "8.08", "166"]
