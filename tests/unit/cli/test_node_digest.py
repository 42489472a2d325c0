"""`lumos node app-digest`: what an owner compares, or copies into node.toml."""

import json
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.deployment import folders
from lumos_core.errors import ConfigError
from lumos_core.flower import commands


def printed(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["node", "app-digest", *map(str, arguments)])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.output


def test_the_digest_of_the_installed_lumos_and_of_an_app_in_a_file(tmp_path: Path) -> None:
    folder = commands.stage_app(tmp_path / "app")
    fab = tmp_path / "lumos.fab"
    fab.write_bytes(build_fab_from_disk(folder))
    installed = printed()
    assert installed == printed(fab) == f"{commands.app_digest()}\n"
    with (folder / "client_app" / "client.py").open("a") as file:
        file.write("more = 1\n")
    fab.write_bytes(build_fab_from_disk(folder))
    assert printed(fab) not in ("", installed)


def test_what_is_no_app_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.fab").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"x\.fab: is not an app as 'flwr build' makes it"):
        printed(tmp_path / "x.fab")
    with pytest.raises(ConfigError, match=r"y\.fab: cannot be read"):
        printed(tmp_path / "y.fab")


def test_a_new_bundle_has_a_line_for_it(tmp_path: Path) -> None:
    folders.create(tmp_path / "deployment", ["127.0.0.1"], ["a"], 9092, 30)
    bundle = tmp_path / "deployment" / "nodes" / "a"
    text = (bundle / "node.toml").read_text()
    digests = ["0" * 64, "1" * 64]
    assert "# approved-apps = []" in text
    approving = text.replace("# approved-apps = []", f"approved-apps = {json.dumps(digests)}")
    (bundle / "node.toml").write_text(approving)
    assert folders.NodeBundle.read(bundle, {}).config.approved_apps == ",".join(digests)
