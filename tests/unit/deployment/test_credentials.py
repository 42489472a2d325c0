"""Certificates, keys, bundles, back-off and the registry of a deployment; no process is started."""

import ipaddress
import json
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.deployment import admission, credentials, folders
from lumos_core.deployment.folders import NodeBundle, ServerKit
from lumos_core.deployment.registry import Registry
from lumos_core.deployment.supervision import Backoff
from lumos_core.errors import ConfigError, NewerFileError


@pytest.fixture
def deployment(tmp_path):
    out = tmp_path / "deployment"
    folders.create(out, ["10.0.0.1", "lumos.example.org"], ["a", "b"], 9092, 30)
    return out


# ---------------------------------------------------------------- what is written
def test_files_are_private_and_bundles_hold_nothing_else(deployment):
    private = {"ca.key", "server.key", "superexec.secret", "node.key", "a.pub", "b.pub"}
    for path in [deployment, *deployment.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.name in private:
            assert mode == 0o600, path
    for name in ("a", "b"):
        bundle = {p.name for p in (deployment / "nodes" / name).iterdir()}
        assert bundle == {"ca.crt", "node.key", "node.toml"}
    secrets = [p.read_bytes() for p in deployment.rglob("*") if p.name in private]
    assert len(set(secrets)) == len(secrets) == 7  # node.key twice, different
    manifest = (deployment / "server" / "deployment.json").read_bytes()
    assert not any(secret.strip() in manifest for secret in secrets)


def test_the_server_certificate_is_for_its_hosts_and_signed_by_the_authority(deployment):
    authority = credentials.read_certificate(deployment / "ca" / "ca.crt")
    found = credentials.read_certificate(deployment / "server" / "server.crt")
    found.verify_directly_issued_by(authority)
    assert isinstance(authority.public_key().curve, ec.SECP384R1)
    assert isinstance(found.public_key().curve, ec.SECP256R1)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["lumos.example.org", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("10.0.0.1"),
        ipaddress.ip_address("127.0.0.1"),
    ]
    assert 29 < credentials.days_left(found) <= 30


def test_node_keys_are_what_flower_reads(deployment):
    credentials.check_node_key(deployment / "nodes" / "a" / "node.key")
    public = load_ssh_public_key((deployment / "server" / "nodes" / "a.pub").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP384R1)


def test_nothing_is_overwritten(deployment):
    before = {p: p.read_bytes() for p in deployment.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="never overwritten"):
        folders.create(deployment, ["10.0.0.1"], ["a"], 9092, 30)
    with pytest.raises(FileExistsError):
        credentials.new_secret(deployment / "server" / "superexec.secret")
    assert {p: p.read_bytes() for p in deployment.rglob("*") if p.is_file()} == before


def test_a_node_can_be_added(deployment):
    bundle = admission.add_node(deployment, "south")
    assert ServerKit.read(deployment / "server").manifest.nodes == ("a", "b", "south")
    assert NodeBundle.read(bundle, {"data": "d"}).config.name == "south"
    with pytest.raises(ConfigError, match="already"):
        admission.add_node(deployment, "south")


def test_a_removed_node_is_off_the_list_and_its_key_away(deployment):
    key = (deployment / "server" / "nodes" / "a.pub").read_bytes()
    result = CliRunner().invoke(app, ["deploy", "remove-node", str(deployment), "a"])
    assert result.exit_code == 0
    assert f"rsync -a {deployment / 'server'}/ HOST:server/" in result.output
    assert ServerKit.read(deployment / "server").manifest.nodes == ("b",)
    [place] = (deployment / "removed").iterdir()
    assert str(place) in result.output
    assert place.name.startswith("a-2")
    assert (place / "a.pub").read_bytes() == key
    assert (place / "a" / "node.key").exists()
    assert {p.name for p in (deployment / "nodes").iterdir()} == {"b"}
    assert {p.name for p in (deployment / "server" / "nodes").iterdir()} == {"b.pub"}
    assert {stat.S_IMODE(p.stat().st_mode) for p in (place, place.parent)} == {0o700}
    result = CliRunner().invoke(app, ["deploy", "add-node", str(deployment), "c"])
    assert f"rsync -a {deployment / 'server'}/ HOST:server/" in result.output
    assert ServerKit.read(deployment / "server").manifest.nodes == ("b", "c")


def test_a_lost_key_is_replaced_under_the_same_name_more_than_once(deployment):
    keys = {(deployment / "server" / "nodes" / "a.pub").read_bytes()}
    for _ in range(2):  # in the same second
        admission.remove_node(deployment, "a")
        admission.add_node(deployment, "a")
        keys.add((deployment / "server" / "nodes" / "a.pub").read_bytes())
    assert len(keys) == 3
    assert len(list((deployment / "removed").iterdir())) == 2
    assert ServerKit.read(deployment / "server").manifest.nodes == ("b", "a")


def test_only_a_node_that_is_there_and_not_alone_can_be_removed(deployment):
    manifest = deployment / "server" / "deployment.json"
    with pytest.raises(ConfigError, match=r"deployment\.json: has no node 'x', found a, b"):
        admission.remove_node(deployment, "x")
    admission.remove_node(deployment, "a")
    before = manifest.read_bytes()
    with pytest.raises(ConfigError, match="'b' is the only node"):
        admission.remove_node(deployment, "b")
    assert manifest.read_bytes() == before
    assert (deployment / "nodes" / "b" / "node.key").exists()


def test_a_node_whose_bundle_is_elsewhere_can_be_removed(deployment):
    (deployment / "nodes" / "a").rename(deployment.parent / "a")
    place = admission.remove_node(deployment, "a")
    assert [p.name for p in place.iterdir()] == ["a.pub"]


OLD_MANIFEST = """{
  "hosts": [
    "10.0.0.1",
    "::1"
  ],
  "port": 9092,
  "nodes": [
    "a"
  ],
  "format": 1
}
"""
"""As it has been written from the beginning; ``format`` is its schema version."""


def test_the_manifest_is_read_as_it_always_was(deployment):
    path = deployment / "server" / "deployment.json"
    path.write_text(OLD_MANIFEST)
    manifest = ServerKit.read(deployment / "server").manifest
    assert (manifest.hosts, manifest.port, manifest.nodes) == (("10.0.0.1", "::1"), 9092, ("a",))
    manifest.write(path)
    assert json.loads(path.read_text()) == json.loads(OLD_MANIFEST)
    path.write_text(json.dumps({**json.loads(OLD_MANIFEST), "region": "eu"}))
    assert ServerKit.read(deployment / "server").manifest == manifest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON .* the file is damaged"),
        ("[]", "found list, expected a JSON object; the file is damaged"),
        ('{"format": "x"}', "key 'format': found 'x', expected 1; the file is damaged"),
        ('{"format": 1, "hosts": ["a"], "port": 1}', "key 'nodes' is missing; the file is damaged"),
        ('{"format": 1, "hosts": "a", "port": 1, "nodes": []}', "key 'hosts': found 'a', expected"),
    ],
)
def test_a_damaged_manifest_is_named(deployment, text, message):
    (deployment / "server" / "deployment.json").write_text(text)
    for command in (
        lambda: ServerKit.read(deployment / "server"),
        lambda: admission.add_node(deployment, "x"),
        lambda: admission.remove_node(deployment, "a"),
    ):
        with pytest.raises(ConfigError, match=rf"deployment\.json: {message}"):
            command()


def test_a_newer_manifest_is_refused(deployment):
    (deployment / "server" / "deployment.json").write_text('{"format": 2}')
    with pytest.raises(NewerFileError, match=r"deployment\.json: has schema version 2"):
        ServerKit.read(deployment / "server")


def test_a_folder_without_a_manifest_is_no_deployment(tmp_path):
    expected = "cannot be read: No such file or directory; expected the folder 'server' that "
    with pytest.raises(ConfigError, match=expected):
        ServerKit.read(tmp_path)


@pytest.mark.parametrize("left", ["nodes/c", "server/nodes/c.pub"])
def test_a_key_that_is_there_is_not_overwritten_but_named(left, deployment):
    manifest = deployment / "server" / "deployment.json"
    before = manifest.read_bytes()
    admission.add_node(deployment, "c")
    manifest.write_bytes(before)  # as if the name had been deleted by hand
    other = {"nodes/c": "server/nodes/c.pub", "server/nodes/c.pub": "nodes/c"}[left]
    (deployment / other).rename(deployment.parent / "elsewhere")
    kept = {p: p.read_bytes() for p in deployment.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=rf"{left}: is there already, .* move it away"):
        admission.add_node(deployment, "c")
    assert {p: p.read_bytes() for p in deployment.rglob("*") if p.is_file()} == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "http://x", "--nodes", "2"], "without scheme and port"),
        (["--host", "10.0.0.1:9092", "--nodes", "2"], "without scheme and port"),
        (["--host", "10.0.0.300", "--nodes", "2"], "without scheme and port"),
        (["--host", "x", "--nodes", "0"], "expected their number"),
        (["--host", "x", "--nodes", "a,a"], "given twice"),
        (["--host", "x", "--nodes", "../a,b"], "node '../a'"),
    ],
)
def test_impossible_hosts_and_names(options, message, tmp_path):
    result = CliRunner().invoke(app, ["deploy", "init", str(tmp_path / "out"), *options])
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- what is read
def test_a_key_that_others_can_read_is_refused(deployment):
    key = deployment / "nodes" / "a" / "node.key"
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        credentials.check_node_key(key)
    (deployment / "server" / "nodes" / "b.pub").chmod(0o644)
    with pytest.raises(ConfigError, match=r"b\.pub: others may use it"):
        ServerKit.read(deployment / "server")


def test_a_key_of_another_kind_is_refused(deployment):
    with pytest.raises(ConfigError, match="OpenSSH"):
        credentials.check_node_key(deployment / "server" / "server.key")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ca/ca.crt", b"x", r"ca\.crt: is not a certificate in PEM format"),
        ("ca/ca.crt", None, r"ca\.crt: cannot be read: No such file"),
        ("ca/ca.key", b"x", r"ca\.key: is not an elliptic-curve key in PEM format"),
        ("ca/ca.key", None, r"ca\.key: cannot be read: No such file"),
    ],
)
def test_a_damaged_authority_is_named(deployment, tmp_path, name, content, message):
    (deployment / name).unlink()
    if content is not None:
        (deployment / name).write_bytes(content)
    authority = deployment / "ca"
    with pytest.raises(ConfigError, match=message):
        credentials.new_server_certificate(
            authority / "ca.crt", authority / "ca.key", ["x.example"],
            tmp_path / "server.crt", tmp_path / "server.key", days=10,
        )  # fmt: skip
    assert not (tmp_path / "server.key").exists()


def test_a_missing_secret_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"superexec\.secret: cannot be read: No such file"):
        credentials.check_private_file(tmp_path / "superexec.secret")


@pytest.mark.parametrize(("days", "message"), [(-40, "is valid from"), (4000, "expired on")])
def test_dates_are_checked(deployment, days, message, monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) + timedelta(days=days)

    monkeypatch.setattr(credentials, "datetime", Clock)
    with pytest.raises(ConfigError, match=message):
        credentials.check_certificate(deployment / "server" / "server.crt")


def test_a_bundle_is_read_with_changes_on_top(deployment, tmp_path):
    folder = deployment / "nodes" / "a"
    bundle = NodeBundle.read(folder, {"threads": "3", "superlink": "[::1]:7"})
    assert (bundle.superlink, bundle.config.threads, bundle.config.name) == ("[::1]:7", 3, "a")
    assert bundle.config.data == str(folder / "data")
    assert folders.split_address(bundle.superlink, "x") == ("::1", 7)
    for changes, message in (
        ({"thread": "3"}, "did you mean 'threads'"),
        ({"superlink": "10.0.0.1"}, "expected HOST:PORT"),
    ):
        with pytest.raises(ConfigError, match=message):
            NodeBundle.read(folder, changes)
    with pytest.raises(ConfigError, match="lumos deploy init"):
        NodeBundle.read(tmp_path, {})
    (folder / "node.toml").write_text("superlink =")
    with pytest.raises(ConfigError, match="is not TOML"):
        NodeBundle.read(folder, {})


# ---------------------------------------------------------------- back-off, registry, run
def test_pauses_double_up_to_15_seconds_and_begin_again_after_a_success():
    backoff = Backoff(jitter=lambda: 1.0)
    assert [backoff.pause() for _ in range(6)] == [2, 4, 8, 15, 15, 15]
    backoff.reset()
    assert backoff.pause() == 2
    pauses = [Backoff().pause() for _ in range(50)]
    assert len(set(pauses)) > 40  # nodes do not come together
    assert 1 <= min(pauses) < max(pauses) <= 2


def test_a_registry_that_does_not_fit_is_dropped(deployment, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    server = ServerKit.read(deployment / "server")
    registry = Registry(server, state)
    digest = registry._digest("a")

    def fill(name, key):
        registry.path.write_text(json.dumps({name: {"id": "7", "key": key}}))
        registry.database.write_bytes(b"x")
        registry.prepare()
        return registry.database.exists()

    assert fill("a", digest)
    assert not fill("gone", digest)
    assert not fill("a", "another key")
    fill("a", digest)
    registry.path.unlink()
    registry.prepare()
    assert not registry.database.exists()
