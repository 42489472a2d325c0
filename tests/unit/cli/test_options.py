"""Texts of options that several commands share: what they mean, and how mistakes are told."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumos_core.cli import options
from lumos_core.cli.app import app
from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError
from lumos_core.experiments.poisoning.scenarios import SUITES


def test_overrides_are_read_as_the_keys_they_are_for() -> None:
    found = options.with_overrides(RunConfig(), ["rounds=3", "clip = none"])
    assert (found.rounds, found.clip) == (3, "none")
    assert options.with_overrides(RunConfig(), None) == RunConfig()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["rounds=1", "rounds=2"], "key 'rounds' is given twice"),
        (["rounds"], "expected KEY=VALUE"),
        (["seed=7"], "-c seed=…: this command sets it by itself; use --seeds"),
        (["round=7"], "unknown key 'round'"),
    ],
)
def test_overrides_that_cannot_be_meant(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options.with_overrides(RunConfig(), texts, {"seed": "--seeds"})


def test_a_key_comes_from_its_option_or_from_c() -> None:
    assert options.with_options({"clip": "none"}, {"seed": 3, "rounds": None}) == {
        "clip": "none",
        "seed": 3,
    }
    with pytest.raises(ConfigError, match="'seed' is given twice, as --seed and with -c"):
        options.with_options({"seed": "3"}, {"seed": 3})


def test_a_run_counts_once() -> None:
    assert options.names("lumos, fedavg", "--methods") == ["lumos", "fedavg"]
    assert options.integers("2,0", "--seeds") == [2, 0]
    with pytest.raises(ConfigError, match="--methods: lumos is given twice"):
        options.names("lumos,fedavg,lumos", "--methods")
    with pytest.raises(ConfigError, match="--seeds: 0 is given twice"):
        options.integers("0,00", "--seeds")
    with pytest.raises(ConfigError, match="--seeds '0,a': expected whole numbers"):
        options.integers("0,a", "--seeds")


def test_results_have_a_place_before_work_starts(tmp_path: Path) -> None:
    options.check_out(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out .*file: not a folder .*File exists.*; choose"):
        options.check_out(tmp_path / "file")


def test_help_names_every_suite_and_describes_arguments() -> None:
    shown = CliRunner().invoke(app, ["attack", "--help"], env={"COLUMNS": "200"}).output
    assert all(suite in shown for suite in SUITES)
    assert "Folder made by" in shown
