"""``lumos node forget``: asks, removes, tells what remains, and refuses what it must not do."""

from pathlib import Path

import pytest
from flower_in_process import write_nodes
from typer.testing import CliRunner, Result

from lumos_core.cli.app import app
from lumos_core.deployment import folders, forgetting
from lumos_core.deployment.forgetting import UNFINISHED
from lumos_core.errors import ConfigError, DataError, FederationError
from lumos_core.privacy.ledger_file import read_lines

USER = "u0x1"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_nodes(tmp_path) / "node-0"


def forget(*arguments: str, answer: str | None = None) -> Result:
    result = CliRunner().invoke(app, ["node", "forget", *arguments], input=answer)
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def is_there(data: Path, user: str = USER) -> bool:
    return f"{user}\t" in (data / "interactions.tsv").read_text()


def test_it_shows_everything_and_asks(data: Path) -> None:
    result = forget("--data", str(data), "--user", USER, answer="y\n")
    assert result.exit_code == 0
    for text in (
        f"  data               {data / 'interactions.tsv'} (", "are taken out; the file is written",
        "what remains", "The federation's global model, and every copy of it, stays as it is.",
        "Remove this? [y/N]", "data: done", "1 user is forgotten; this node has 5 users",
    ):  # fmt: skip
        assert text in result.output, text
    assert not is_there(data)


@pytest.mark.parametrize("answer", ["n\n", "\n", None])
def test_without_a_yes_nothing_is_removed(data: Path, answer: str | None) -> None:
    result = forget("--data", str(data), "--user", USER, answer=answer)
    assert result.exit_code == 1
    assert is_there(data)
    assert not (data / "state" / UNFINISHED).exists()
    assert list(read_lines(data / "state")) == []


def test_a_dry_run_removes_nothing_and_makes_nothing(data: Path) -> None:
    result = forget("--data", str(data), "--user", USER, "--dry-run")
    assert (result.exit_code, "nothing was removed" in result.output) == (0, True)
    assert is_there(data)
    assert not (data / "state").exists()


def test_a_node_of_a_deployment_and_several_users(data: Path, tmp_path: Path) -> None:
    folders.create(tmp_path / "deployment", ["127.0.0.1"], ["north"], 9092, 30)
    bundle = tmp_path / "deployment" / "nodes" / "north"
    state = tmp_path / "state"
    options = ["--data", str(data), "--state", str(state), "--yes"]
    result = forget(str(bundle), *options, "--user", USER, "--user", "u0x3", "--user", USER)
    assert "2 users are forgotten; this node has 4 users" in result.output
    assert not is_there(data)
    assert not is_there(data, "u0x3")
    assert [line["users"] for line in read_lines(state)] == [2]


def test_what_was_made_from_users_who_are_gone(data: Path) -> None:
    result = forget("--data", str(data), "--derived", "--yes")
    assert "nothing: this node's disk holds nothing else" in result.output
    assert "what was made from users who are gone is removed" in result.output


@pytest.mark.parametrize("options", [[], ["--user", USER, "--derived"]])
def test_one_of_both_must_be_asked_for(data: Path, options: list[str]) -> None:
    with pytest.raises(ConfigError, match="either --user ID"):
        forget("--data", str(data), *options, "--yes")
    assert is_there(data)


def test_a_node_must_be_named(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"which node\?"):
        forget("--user", USER, "--yes")


def test_an_unknown_user(data: Path) -> None:
    with pytest.raises(DataError, match="has no user 'nobody'"):
        forget("--data", str(data), "--user", "nobody", "--yes")


def test_a_running_node(data: Path) -> None:
    from lumos_core.config import NodeConfig

    with (
        forgetting.only_this(NodeConfig(data=str(data))),
        pytest.raises(FederationError, match=r"this node is running.*systemctl stop"),
    ):
        forget("--data", str(data), "--user", USER, "--yes")
    assert is_there(data)


def test_ctrl_c_in_the_middle_says_what_to_do_and_the_same_command_finishes(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(state: Path, facts: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "write_line", interrupted)
        result = forget("--data", str(data), "--user", USER, "--yes")
    assert result.exit_code == 130
    assert "give the same command again" in result.output
    assert (data / "state" / UNFINISHED).exists()
    again = forget("--data", str(data), "--user", USER, "--yes")
    assert "an earlier call was interrupted" in again.output
    assert "1 user is forgotten" in again.output
    assert not (data / "state" / UNFINISHED).exists()
