"""Nodes that have made their own keys are added, removed and given others, in both places."""

import json
import os
import stat
from multiprocessing import get_context
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.deployment import admission, folders, node_keys
from lumos_core.deployment.folders import ServerKit
from lumos_core.deployment.node_keys import PublicKey
from lumos_core.errors import ConfigError
from lumos_core.safe_files import exclusive, lock_beside


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    folders.create(tmp_path / "deployment", ["10.0.0.1"], ["old"], 9092, 30)
    return tmp_path / "deployment"


@pytest.fixture(params=["all", "server"])
def folder(request: pytest.FixtureRequest, deployment: Path) -> Path:
    """The folder that a command is given: that of ``deploy init``, or the server's alone."""
    return deployment if request.param == "all" else deployment / "server"


def made(tmp_path: Path, name: str = "north") -> Path:
    """The public key of a node's own making."""
    number = len(list(tmp_path.glob("owner-*")))
    return node_keys.init(tmp_path / f"owner-{number}", name, None, None).public


def nodes(deployment: Path) -> dict[str, bytes]:
    """The admitted nodes and their keys, as a server reads them."""
    kit = ServerKit.read(deployment / "server")
    return {name: kit.public_key(name).read_bytes() for name in kit.manifest.nodes}


def lumos(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.output


def test_a_node_is_added_by_its_public_key(deployment: Path, folder: Path, tmp_path: Path) -> None:
    public = made(tmp_path)
    public.chmod(0o644)  # as a mail program writes it
    said = lumos("deploy", "add-node", folder, "north", "--public-key", public)
    key = PublicKey.read(public)
    assert nodes(deployment)["north"] == key.line
    kept = deployment / "server" / "nodes" / "north.pub"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert not (deployment / "nodes" / "north").exists()
    assert key.fingerprint in said
    assert "10.0.0.1:9092" in said  # what its owner needs
    assert ("rsync" in said) == (folder == deployment)
    assert "follows within a few seconds" in said
    with pytest.raises(ConfigError, match=r"node 'north' is in .* already; .* rotate-node"):
        admission.add_node(folder, "north", made(tmp_path))


def test_a_node_gets_another_key(deployment: Path, folder: Path, tmp_path: Path) -> None:
    before = nodes(deployment)["old"]
    public = made(tmp_path, "old")
    said = lumos("deploy", "rotate-node", folder, "old", "--public-key", public)
    assert nodes(deployment) == {"old": PublicKey.read(public).line}
    assert "no longer by its old" in said
    [away] = (folder / "removed").iterdir()
    assert (away / "old.pub").read_bytes() == before
    bundle = away if folder == deployment else deployment / "nodes"
    assert (bundle / "old" / "node.key").exists()  # that key is of no use any more


def test_a_node_is_removed(deployment: Path, folder: Path, tmp_path: Path) -> None:
    admission.add_node(folder, "north", made(tmp_path))
    said = lumos("deploy", "remove-node", folder, "north")
    assert nodes(deployment).keys() == {"old"}
    [away] = (folder / "removed").iterdir()
    assert (away / "north.pub").exists()
    assert str(away) in said
    admission.add_node(folder, "north", made(tmp_path))  # the name is free again
    assert nodes(deployment).keys() == {"old", "north"}


def test_one_key_is_for_one_node(deployment: Path, folder: Path, tmp_path: Path) -> None:
    public = made(tmp_path)
    admission.add_node(folder, "north", public)
    line = PublicKey.read(public).line
    public.write_bytes(line)  # without the name
    before = nodes(deployment)
    for command in (admission.add_node, admission.rotate_node):
        name = "third" if command is admission.add_node else "old"
        with pytest.raises(ConfigError, match="is the key that node 'north' has already"):
            command(folder, name, public)
    with pytest.raises(ConfigError, match="is the key that node 'north' has already"):
        admission.rotate_node(folder, "north", public)  # nothing would change
    assert nodes(deployment) == before


def test_another_node_s_file_is_refused(deployment: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is the key of node 'north', found the name 'south'"):
        admission.add_node(deployment, "south", made(tmp_path))
    assert nodes(deployment).keys() == {"old"}


def test_no_key_is_made_in_the_server_s_own_folder(deployment: Path) -> None:
    with pytest.raises(ConfigError, match=r"give --public-key FILE, .* 'lumos node init'"):
        admission.add_node(deployment / "server", "north")
    assert nodes(deployment).keys() == {"old"}


@pytest.mark.parametrize("command", ["remove-node", "rotate-node"])
def test_only_a_node_that_is_there_can_be_changed(
    command: str, deployment: Path, tmp_path: Path
) -> None:
    options = ["--public-key", made(tmp_path)] if command == "rotate-node" else []
    with pytest.raises(ConfigError, match=r"deployment\.json: has no node 'x', found old"):
        lumos("deploy", command, deployment, "x", *options)


def test_a_deployment_begins_without_nodes(tmp_path: Path) -> None:
    out = tmp_path / "new"
    said = lumos("deploy", "init", out, "--host", "10.0.0.1")
    assert "lumos node init NAME --superlink 10.0.0.1:9092 --ca ca.crt" in said
    assert nodes(out) == {}
    assert list((out / "nodes").iterdir()) == []
    admission.add_node(out, "north", made(tmp_path))
    assert nodes(out).keys() == {"north"}
    with_keys = lumos("deploy", "init", tmp_path / "trial", "--host", "h", "--nodes", "1")
    assert "private keys were made here: good for a trial" in with_keys


def test_two_commands_at_a_time_wait_for_each_other(deployment: Path, tmp_path: Path) -> None:
    files = {f"n{n}": made(tmp_path, f"n{n}") for n in range(4)}
    context = get_context("spawn")
    processes = [
        context.Process(target=admission.add_node, args=(deployment, name, file))
        for name, file in files.items()
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert nodes(deployment).keys() == {"old", *files}


def test_who_waits_too_long_is_told(
    deployment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_LOCK_SECONDS", 0.05)
    public, before = made(tmp_path), (deployment / "server" / "deployment.json").read_bytes()
    with (
        exclusive(lock_beside(deployment / "server" / "deployment.json")),
        pytest.raises(ConfigError, match="another command has been changing it for"),
    ):
        admission.add_node(deployment, "north", public)
    assert (deployment / "server" / "deployment.json").read_bytes() == before


def test_a_folder_that_is_no_deployment_is_left_alone(tmp_path: Path) -> None:
    public = made(tmp_path)
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"deployment\.json: cannot be read: No such file"):
        admission.add_node(tmp_path, "north", public)
    assert sorted(tmp_path.rglob("*")) == there


def test_the_manifest_stays_readable_for_people(deployment: Path, tmp_path: Path) -> None:
    admission.add_node(deployment, "north", made(tmp_path))
    found = json.loads((deployment / "server" / "deployment.json").read_text())
    assert found == {"hosts": ["10.0.0.1"], "port": 9092, "nodes": ["old", "north"], "format": 1}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_owner_of_the_folder(
    deployment: Path, tmp_path: Path
) -> None:
    """As for a service that runs as a user of its own."""
    server = deployment / "server"
    (server / "run").mkdir()
    for path in (server, *server.rglob("*")):
        os.chown(path, 12345, 12346)
    os.chown(server / "run", 0, 0)
    admission.add_node(server, "north", made(tmp_path))
    admission.rotate_node(server, "old", made(tmp_path, "old"))
    lumos("deploy", "renew", server)
    written = [path for path in server.rglob("*") if path.name not in ("run", "removed")]
    owners = {path: (path.stat().st_uid, path.stat().st_gid) for path in written}
    kept = {path: owner for path, owner in owners.items() if "removed" not in path.parts}
    assert set(kept.values()) == {(12345, 12346)}, kept
    assert (server / "run").stat().st_uid == 0


@pytest.mark.parametrize("command", ["add-node", "rotate-node"])
def test_a_file_that_was_exchanged_on_the_way_is_refused(
    command: str, deployment: Path, tmp_path: Path
) -> None:
    name = "north" if command == "add-node" else "old"
    public, other = made(tmp_path, name), made(tmp_path, name)
    told, before = PublicKey.read(public).fingerprint, nodes(deployment)

    def run(path: Path) -> str:
        options = ["--public-key", path, "--fingerprint", told]
        return lumos("deploy", command, deployment, name, *options)

    with pytest.raises(ConfigError, match=r"has the fingerprint SHA256:\S+, expected SHA256:"):
        run(other)
    assert nodes(deployment) == before
    assert "compare" not in run(public)
    assert nodes(deployment)[name] == PublicKey.read(public).line


def test_a_fingerprint_is_that_of_a_file(deployment: Path) -> None:
    with pytest.raises(ConfigError, match="--fingerprint is that of --public-key FILE"):
        lumos("deploy", "add-node", deployment, "north", "--fingerprint", "SHA256:x")
    assert nodes(deployment).keys() == {"old"}
