"""``lumos node policy``: a node's limits in plain words, and what runs have spent of it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.deployment import folders
from lumos_core.errors import DataError
from lumos_core.federation.owner_floor import LIMITS, REFUSED, Refusal
from lumos_core.privacy.budget import epsilon
from lumos_core.privacy.node_budget import FILE, Account, Training


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folders.create(tmp_path / "deployment", ["127.0.0.1"], ["north"], 9092, 30)
    return tmp_path / "deployment" / "nodes" / "north"


def shown(bundle: Path, *options: str) -> str:
    result = CliRunner().invoke(app, ["node", "policy", str(bundle), *options])
    if isinstance(result.exception, Exception):
        raise result.exception
    assert result.exit_code == 0
    return result.output


def test_a_fresh_node_has_a_line_for_every_limit_and_has_spent_nothing(bundle: Path) -> None:
    output = shown(bundle)
    for limit in LIMITS:
        assert f"\n  {limit.key} " in output
    assert "all runs: ε = 0 (δ = 1e-05) in 0 trainings" in output
    assert "the language model must be smollm2" in output
    assert "last refusal" not in output
    assert not (bundle / "data").exists(), "nothing is made by looking"


def test_every_key_of_the_template_is_one_and_takes_its_value(bundle: Path) -> None:
    settings = bundle / "node.toml"
    text = settings.read_text()
    before, head, floor = text.partition("# The floor")
    assert head
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line else line for line in floor.splitlines()
    )
    settings.write_text(f"{before}{head}{uncommented}\n")
    limits = json.loads(shown(bundle, "--json"))["limits"]
    settings.write_text(text)
    assert limits == json.loads(shown(bundle, "--json"))["limits"], "the defaults"
    assert [key for key in limits if f"\n# {key} = " not in floor] == []


def test_limits_and_what_was_spent(bundle: Path) -> None:
    with (bundle / "node.toml").open("a") as file:
        file.write('\nallowed-dp = "user"\nmax-total-epsilon = 8.0\nmax-bytes-a-day = 1000000000\n')
    account = Account(bundle / "data" / "state")
    for run, training in (("a", Training(2.0)), ("b", Training(2.0)), ("b", Training())):
        account.change(lambda s, run=run, t=training: s.after_training(run, t))
    Refusal(time=0.0, sentences=("refused: the run asks for [much]",)).write(
        account.path.with_name(REFUSED)
    )
    output = shown(bundle)
    for text in (
        "dp must be user",
        "at most 8.0 ε in all runs (δ = 1e-05)",
        "at most 1000000000 bytes sent a day (UTC)",
        f"ε = {epsilon(2.0, 1.0, 2, 1e-5):.3g} (δ = 1e-05) in 2 trainings",
        "1 more trainings, of which a node cannot count ε",
        f"run b: 2 trainings, ε = {epsilon(2.0, 1.0, 1, 1e-5):.3g}",
        "last refusal, 1970-01-01T00:00:00+00:00\n  refused: the run asks for [much]",
    ):
        assert text in output, text
    found = json.loads(shown(bundle, "--json"))
    assert found["limits"]["max-total-epsilon"]["value"] == 8.0
    assert found["spent"]["epsilon"] == pytest.approx(epsilon(2.0, 1.0, 2, 1e-5))
    assert [run["run"] for run in found["spent"]["runs"]] == ["a", "b"]
    assert found["last_refusal"]["reasons"] == ["refused: the run asks for [much]"]


def test_a_damaged_account_is_named(bundle: Path) -> None:
    path = bundle / "data" / "state" / FILE
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(DataError, match=r"spent\.json: is not JSON"):
        shown(bundle)
