"""``lumos config``: all keys, some of them, or none that is called so."""

from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.config import NodeConfig, RunConfig, reference
from lumos_core.errors import ConfigError


def said(*words: str) -> str:
    found = CliRunner().invoke(app, ["config", *words])
    assert found.exit_code == 0, found.exception
    return found.output


def test_every_key_is_shown_with_its_default() -> None:
    shown = said()
    for key in {**RunConfig().to_flat(), **NodeConfig(data="d").to_flat()}:
        assert f"\n{key} = " in shown


def test_parts_of_names_choose() -> None:
    shown = said("secagg", "max-epsilon")
    assert "max-epsilon = 0.0 ↻" in shown
    assert "secagg-bits = 24" in shown
    assert "secagg-min-nodes = 3" in shown, "a node's own key"
    assert "rounds = " not in shown


def test_the_page_of_the_documents_is_the_same() -> None:
    assert said("--markdown") == reference.markdown()


def test_a_key_that_nobody_has() -> None:
    found = CliRunner().invoke(app, ["config", "learning-speed"])
    assert isinstance(found.exception, ConfigError)
    assert "no key contains 'learning-speed'" in str(found.exception)
