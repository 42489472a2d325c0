"""Commands are imported when they are called; what is listed of them before is what they say."""

import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lumos_core.cli.app import LumosGroup, app
from lumos_core.cli.lazy import LazyCommand, LazyGroup

MODULE = "commands_of_a_test"
SOURCE = '''
import typer

group = typer.Typer()

@group.command()
def inner(text: str) -> None:
    """Say it."""
    typer.echo(f"inner {text}")

@group.command()
def other() -> None:
    """Say nothing."""

def outer(text: str, loud: bool = False) -> None:
    """Say it, too."""
    typer.echo(f"outer {text.upper() if loud else text}")
'''


class TwoCommands(LazyGroup):
    lazy = (
        LazyCommand("outer", f"{MODULE}:outer", "Say it, too."),
        LazyCommand("group", f"{MODULE}:group", "Ways to say it."),
    )


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """A program with two commands in a module that is not imported yet, and one of its own."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    program = typer.Typer(name="program", cls=TwoCommands)
    program.callback()(lambda: None)

    @program.command("own")
    def own() -> None:
        """Say nothing at all."""
        typer.echo("own")

    return program


def said(program: typer.Typer, *arguments: str, **environment: str) -> str:
    """What a program says that ends well."""
    result = CliRunner().invoke(program, arguments, env={"COLUMNS": "100", **environment})
    assert result.exit_code == 0, result.output
    return result.output


def refused(program: typer.Typer, *arguments: str) -> str:
    """What a program says that it does not understand."""
    result = CliRunner().invoke(program, arguments, env={"COLUMNS": "100"})
    assert result.exit_code == 2, result.output
    return result.output


def completed(program: typer.Typer, words: str) -> list[str]:
    """How a shell goes on after these words."""
    name, count = words.partition(" ")[0], len(words.split(" "))
    found = said(
        program, COMP_WORDS=words, COMP_CWORD=str(count - 1),
        **{f"_{name.upper()}_COMPLETE": "complete_bash"},
    )  # fmt: skip
    return found.split()


class TestLazyGroup:
    @pytest.mark.parametrize("arguments", [["--help"], ["own"]])
    def test_nothing_is_imported_for_another_command(self, program, arguments) -> None:
        said(program, *arguments)
        assert MODULE not in sys.modules

    def test_commands_are_listed_in_the_order_of_the_table_and_its_own_after_them(
        self, program
    ) -> None:
        page = said(program, "--help")
        texts = ("Say it, too.", "Ways to say it.", "Say nothing at all.")
        assert [page.index(text) for text in texts] == sorted(page.index(text) for text in texts)

    def test_a_command_is_imported_when_it_is_called(self, program) -> None:
        assert said(program, "outer", "word", "--loud") == "outer WORD\n"
        assert MODULE in sys.modules

    def test_a_group_is_imported_with_its_commands(self, program) -> None:
        assert said(program, "group", "inner", "word") == "inner word\n"
        assert "Usage: program group inner [OPTIONS] TEXT" in said(
            program, "group", "inner", "--help"
        )
        assert "No such command 'x'" in refused(program, "group", "x")

    def test_completion_imports_only_what_is_completed(self, program) -> None:
        assert completed(program, "program ") == ["outer", "group", "own"]
        assert completed(program, "program o") == ["outer", "own"]
        assert MODULE not in sys.modules
        assert completed(program, "program group ") == ["inner", "other"]
        assert "--loud" in completed(program, "program outer --")

    def test_a_name_that_is_nearly_right_is_corrected_without_an_import(self, program) -> None:
        assert "No such command 'outre'. Did you mean 'outer'?" in refused(program, "outre")
        assert MODULE not in sys.modules

    def test_the_usage_in_an_error_is_the_command_s(self, program) -> None:
        text = refused(program, "outer")
        assert "Usage: program outer [OPTIONS] TEXT" in text
        assert "Missing argument 'TEXT'." in text


@pytest.mark.parametrize("listed", LumosGroup.lazy, ids=lambda listed: listed.name)
def test_what_is_listed_is_what_the_command_says(listed: LazyCommand) -> None:
    command = listed.load()
    assert command.name == listed.name
    first_paragraph = (command.short_help or command.help or "").split("\n\n")[0]
    assert listed.help == " ".join(first_paragraph.split())


@pytest.mark.parametrize("markup", ["rich", None])
def test_the_page_of_commands_is_as_if_all_were_imported(
    monkeypatch: pytest.MonkeyPatch, markup: str | None
) -> None:
    """Also in what the table does not say: panels, and what is hidden or deprecated."""
    monkeypatch.setattr(app, "rich_markup_mode", markup)
    page = said(app, "--help")
    monkeypatch.setattr(LumosGroup, "lazy", tuple(command.load() for command in LumosGroup.lazy))
    assert said(app, "--help") == page


def test_lumos_completes_and_corrects_names_and_options() -> None:
    assert completed(app, "lumos s") == ["simulate", "serve", "status"]
    assert completed(app, "lumos deploy in") == ["init"]
    assert completed(app, "lumos node start --s") == ["--state", "--superlink"]
    assert completed(app, "lumos prepare --format m") == ["mind"]
    assert "No such command 'staus'. Did you mean 'status'?" in refused(app, "staus")
    assert "No such command 'shwo'. Did you mean 'show'?" in refused(app, "views", "shwo")
    assert "Missing argument 'RUN_DIR'." in refused(app, "status")
