"""New certificates: real ones, and real TLS between a server that has them and a node that does
not, or not yet, have the new authority."""

import shutil
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.deployment import checks, credentials, folders, renewal
from lumos_core.deployment.folders import Manifest, ServerKit
from lumos_core.errors import ConfigError


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    folders.create(tmp_path / "deployment", ["127.0.0.1", "a.test"], ["north"], 9092, 30)
    return tmp_path / "deployment"


@pytest.fixture
def node(deployment: Path, tmp_path: Path) -> Path:
    """The ca.crt of a node, as it was given out at the beginning."""
    return Path(shutil.copy(deployment / "server" / "ca.crt", tmp_path / "node-ca.crt"))


def lumos(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.output


def accepts(ca: Path, deployment: Path) -> bool:
    """Whether a node with this ca.crt accepts the server, by a TLS handshake."""
    kit = ServerKit.read(deployment / "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit.certificate, kit.key)
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            try:
                context.wrap_socket(connection, server_side=True).close()
            except (ssl.SSLError, OSError):
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        port = listening.getsockname()[1]
        [found] = checks.server(f"127.0.0.1:{port}", ca)
        thread.join()
    assert found.level == "ok" or "its certificate is refused" in found.found
    return found.level == "ok"


def test_the_server_s_certificate_is_renewed_and_nodes_need_nothing(
    deployment: Path, node: Path
) -> None:
    before = ServerKit.read(deployment / "server")
    old = {p: p.read_bytes() for p in (before.certificate, before.key)}
    said = lumos("deploy", "renew", deployment)
    kit = ServerKit.read(deployment / "server")
    assert all(path.read_bytes() != content for path, content in old.items())
    assert stat.S_IMODE(kit.key.stat().st_mode) == 0o600
    assert credentials.is_key_of(kit.key, kit.certificate)
    left = credentials.days_left(credentials.read_certificate(kit.certificate))
    assert 824 < left <= 825
    assert "valid for 825 days, for 127.0.0.1, a.test" in said
    assert "nodes" not in said
    assert accepts(node, deployment)
    assert kit.manifest == before.manifest


def test_the_server_s_folder_alone_can_be_renewed_with_the_authority_elsewhere(
    deployment: Path, tmp_path: Path, node: Path
) -> None:
    shutil.move(deployment / "ca", tmp_path / "stick")
    kit = deployment / "server"
    with pytest.raises(ConfigError, match=r"ca\.key: is not there, .* --ca, .* key is lost"):
        lumos("deploy", "renew", kit)
    lumos("deploy", "renew", kit, "--ca", tmp_path / "stick", "--days", "10")
    assert 9 < credentials.days_left(credentials.read_certificate(kit / "server.crt")) <= 10
    assert accepts(node, deployment)


def test_an_address_can_change(deployment: Path, node: Path) -> None:
    lumos("deploy", "renew", deployment, "--host", "b.test")
    assert Manifest.read(deployment / "server" / "deployment.json").superlink == "b.test:9092"
    assert accepts(node, deployment)  # on 127.0.0.1, for which it is always valid
    with pytest.raises(ConfigError, match="without scheme and port"):
        lumos("deploy", "renew", deployment, "--host", "http://b.test")


def test_a_certificate_is_not_valid_for_longer_than_its_authority(deployment: Path) -> None:
    authority = renewal.Authority(deployment / "ca")
    renewal.extend_authority(deployment, authority, days=20)
    said = lumos("deploy", "renew", deployment)
    assert "valid for 20 days" in said
    assert "it expires soon: lumos deploy renew --extend-ca" in said


def test_the_authority_is_extended_and_old_and_new_nodes_accept_the_server(
    deployment: Path, node: Path
) -> None:
    authority = renewal.Authority(deployment / "ca")
    key = authority.key.read_bytes()
    short = credentials.authority_certificate(authority.key, days=20)
    for path in (authority.certificate, deployment / "server" / "ca.crt", node):
        path.write_bytes(short)
    said = lumos("deploy", "renew", deployment, "--extend-ca")
    assert f"nodes    give them {(deployment / 'server' / 'ca.crt').resolve()}, before" in said
    assert authority.key.read_bytes() == key
    new = deployment / "server" / "ca.crt"
    assert credentials.days_left(credentials.read_certificate(new)) > 3640
    assert credentials.days_left(credentials.read_certificate(node)) <= 20
    assert accepts(node, deployment)
    assert accepts(new, deployment)


def test_a_lost_authority_is_replaced_while_nodes_change_one_by_one(
    deployment: Path, node: Path, tmp_path: Path
) -> None:
    """The recipe of docs/operations.md, 'The authority is lost'."""
    shutil.rmtree(deployment / "ca")
    server = (deployment / "server" / "server.crt").read_bytes()
    said = lumos("deploy", "renew", deployment, "--new-ca")
    assert "then start the node again" in said
    both = Path(shutil.copy(deployment / "server" / "ca.crt", tmp_path / "both.crt"))
    assert len(credentials.read_certificates(both)) == 2
    assert (deployment / "server" / "server.crt").read_bytes() == server
    assert accepts(node, deployment)
    assert accepts(both, deployment)

    lumos("deploy", "renew", deployment)
    new = deployment / "server" / "ca.crt"
    assert len(credentials.read_certificates(new)) == 1
    assert accepts(both, deployment)
    assert accepts(new, deployment)
    assert not accepts(node, deployment)  # a node that was forgotten

    [private] = [p for p in deployment.rglob("*.key") if p.parent.name == "ca"]
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_a_stolen_authority_signs_nothing_that_a_node_with_the_new_one_accepts(
    deployment: Path, tmp_path: Path
) -> None:
    stolen = tmp_path / "stolen"
    shutil.copytree(deployment / "ca", stolen)
    said = lumos("deploy", "renew", deployment, "--new-ca")
    lumos("deploy", "renew", deployment)
    new = Path(shutil.copy(deployment / "server" / "ca.crt", tmp_path / "new.crt"))
    assert accepts(new, deployment)
    [away] = [p for p in (deployment / "ca").iterdir() if p.name.startswith("replaced-")]
    assert str(away) in said
    assert (away / "ca.key").read_bytes() == (stolen / "ca.key").read_bytes()

    thief = tmp_path / "thief"
    shutil.copytree(deployment, thief)
    lumos("deploy", "renew", thief, "--ca", stolen)
    assert accepts(stolen / "ca.crt", thief)
    assert not accepts(new, thief)


def test_replacing_twice_keeps_only_the_authority_that_is_in_use(deployment: Path) -> None:
    used = credentials.read_certificate(deployment / "server" / "ca.crt")
    for _ in range(2):
        lumos("deploy", "renew", deployment, "--new-ca")
    found = credentials.read_certificates(deployment / "server" / "ca.crt")
    assert found == [credentials.read_certificate(deployment / "ca" / "ca.crt"), used]
    assert len([p for p in (deployment / "ca").iterdir() if p.is_dir()]) == 2


def test_the_key_of_another_authority_is_refused(deployment: Path, tmp_path: Path) -> None:
    folders.create(tmp_path / "other", ["h.test"], [], 9092, 30)
    shutil.copy(tmp_path / "other" / "ca" / "ca.key", deployment / "ca" / "ca.key")
    before = {p: p.read_bytes() for p in (deployment / "server").iterdir() if p.is_file()}
    with pytest.raises(ConfigError, match=r"ca\.key: is not the key of .*ca\.crt"):
        lumos("deploy", "renew", deployment)
    with pytest.raises(ConfigError, match="choose one"):
        lumos("deploy", "renew", deployment, "--extend-ca", "--new-ca")
    assert (
        before.items()
        <= {p: p.read_bytes() for p in (deployment / "server").iterdir() if p.is_file()}.items()
    )


def test_a_certificate_of_another_authority_is_told_before_a_server_starts(
    deployment: Path, tmp_path: Path
) -> None:
    folders.create(tmp_path / "other", ["h.test"], [], 9092, 30)
    shutil.copy(tmp_path / "other" / "ca" / "ca.crt", deployment / "server" / "ca.crt")
    with pytest.raises(ConfigError, match=r"server\.crt: is not signed by the authority"):
        ServerKit.read(deployment / "server")


def test_an_expired_authority_can_be_extended(
    deployment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + timedelta(days=4000)

    monkeypatch.setattr(credentials, "datetime", Clock)
    with pytest.raises(ConfigError, match=r"expired on .* 'lumos deploy renew'"):
        lumos("deploy", "renew", deployment)
    lumos("deploy", "renew", deployment, "--extend-ca")
    ServerKit.read(deployment / "server")
