"""Each thing that the doctor can find wrong, and a machine on which all is well."""

import socket
from pathlib import Path

import pytest
from flower_in_process import write_nodes
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.data.layout import PREPARE_NODE
from lumos_core.deployment import folders
from lumos_core.deployment.credentials import (
    check_private_file,
    new_authority,
    new_server_certificate,
)
from lumos_core.deployment.doctor import examine
from lumos_core.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_nodes(tmp_path / "data")


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    place = tmp_path / "certificates"
    place.mkdir()
    new_authority(place / "ca.crt", place / "ca.key")
    new_server_certificate(
        place / "ca.crt", place / "ca.key", ["a.example"],
        place / "server.crt", place / "server.key", days=10,
    )  # fmt: skip
    return place


def levels(findings, check):
    return [f.level for f in findings if f.check == check]


def test_a_healthy_node(folder, certificates):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        found = examine(
            folder / "node-0", folder / "catalog.tsv", certificates, f"127.0.0.1:{port}", [], None
        )
    assert [f for f in found if f.level == "fail"] == []
    assert levels(found, "certificate") == ["ok", "warn"]  # the server's ends within a month
    assert levels(found, "catalog") == levels(found, "server") == levels(found, "data") == ["ok"]


def test_users_left_out_are_counted_and_no_failure(folder):
    with (folder / "node-0" / "interactions.tsv").open("a") as file:
        file.write("new\ti1\t1\n")
    found = examine(folder / "node-0", None, None, None, [], None)
    [data] = [f for f in found if f.check == "data"]
    assert data.level == "warn"
    assert data.found.startswith("6 users (1 more left out: fewer than 3 interactions each)")


def test_another_catalog_and_a_readable_key_fail_with_their_remedy(folder, certificates):
    with (folder / "catalog.tsv").open("a") as file:
        file.write("extra\tan extra thing\n")
    (certificates / "server.key").chmod(0o644)
    found = examine(folder / "node-0", folder / "catalog.tsv", certificates, None, [], None)
    assert levels(found, "catalog") == ["fail"]
    assert PREPARE_NODE in next(f.fix for f in found if f.check == "catalog")
    [key] = [f for f in found if f.check == "key file"]
    assert key.level == "fail"
    assert key.fix == f"chmod 600 {certificates / 'server.key'}"


def test_a_readable_public_half_fails_as_it_does_at_the_server(tmp_path):
    folders.create(tmp_path / "deployment", ["127.0.0.1"], ["a"], 9092, 60)
    server = tmp_path / "deployment" / "server"
    assert "fail" not in {f.level for f in examine(None, None, server, None, [], None)}
    public = server / "nodes" / "a.pub"
    public.chmod(0o644)
    [key] = [f for f in examine(None, None, server, None, [], None) if f.level == "fail"]
    assert (key.check, key.fix) == ("key file", f"chmod 600 {public}")
    with pytest.raises(ConfigError, match="others may use it"):
        check_private_file(public)


def test_ports_servers_models_and_empty_folders(tmp_path):
    with socket.create_server(("", 0)) as listening:
        taken = listening.getsockname()[1]
        found = examine(tmp_path, None, tmp_path, "nonsense", [taken], "/no/such/model")
    failed = {f.check for f in found if f.level == "fail"}
    assert failed == {"port", "server", "certificates", "data", "LLM"}
    assert all(f.fix for f in found if f.level == "fail")


def test_the_command_exits_1_on_any_failure(folder):
    node = str(folder / "node-0")
    assert CliRunner().invoke(app, ["doctor", "--node", node]).exit_code == 0
    (folder / "node-0" / "interactions.tsv").unlink()
    result = CliRunner().invoke(app, ["doctor", "--node", node])
    assert result.exit_code == 1
    assert "fail" in result.stdout
