"""The reference of all keys: complete, and the file in docs/ is what the code says."""

from pathlib import Path

from lumos_core.config import NodeConfig, RunConfig, free_keys, reference
from lumos_core.config.run_config import GROUPS, group_keys
from lumos_core.config.same_run import FREE_KEYS

FILE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_file_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == reference.markdown(), "run 'make docs'"


def test_every_key_is_in_one_group_and_has_a_meaning() -> None:
    names = [name for group in GROUPS for name in group_keys(group)]
    assert sorted(names) == sorted(RunConfig.model_fields)
    rows = [row for _, rows in reference.groups() for row in rows]
    assert {row.key for row in rows} == set(RunConfig().to_flat())
    for row in [*rows, *reference.node_rows()]:
        assert row.meaning, row.key
        assert row.allowed, row.key
    assert {row.key for row in reference.node_rows()} == set(NodeConfig(data="d").to_flat())


def test_what_may_change_on_resuming_is_said_by_the_keys() -> None:
    """Changing this set changes which runs can be resumed, and by what name a node knows a run."""
    assert {
        "rounds", "patience", "min-nodes", "start-timeout", "round-timeout", "view-timeout",
        "max-failed-rounds", "max-epsilon", "catalog", "run-dir", "log-format",
        "log-level", "metrics-port", "metrics-host", "tracking", "close-at", "nodes",
    } == FREE_KEYS  # fmt: skip
    flat = RunConfig().to_flat()
    assert free_keys(flat) == FREE_KEYS | {"min-replies"}
    assert free_keys({**flat, "dp": "distributed"}) == FREE_KEYS
