"""A node makes its key itself; the public half is all that travels."""

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.deployment import credentials, folders, node_keys
from lumos_core.deployment.folders import NodeBundle
from lumos_core.deployment.node_keys import PublicKey
from lumos_core.errors import ConfigError


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    folders.create(tmp_path / "deployment", ["10.0.0.1"], [], 9092, 30)
    return tmp_path / "deployment" / "server" / "ca.crt"


def lumos(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.output


def test_a_node_folder_is_made_with_a_key_that_is_private(tmp_path: Path, ca: Path) -> None:
    folder = tmp_path / "north"
    said = lumos("node", "init", folder, "--superlink", "10.0.0.1:9092", "--ca", ca)
    assert {p.name for p in folder.iterdir()} == {"node.key", "north.pub", "node.toml", "ca.crt"}
    assert stat.S_IMODE((folder / "node.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    credentials.check_node_key(folder / "node.key")
    bundle = NodeBundle.read(folder, {})
    assert (bundle.superlink, bundle.config.name) == ("10.0.0.1:9092", "north")
    assert bundle.ca.read_bytes() == ca.read_bytes()
    assert PublicKey.read(folder / "north.pub").fingerprint in said
    assert "lumos deploy add-node SERVER north --public-key north.pub" in said
    assert "missing" not in said


def test_the_public_half_is_one_line_with_the_name_and_belongs_to_the_private_one(
    tmp_path: Path,
) -> None:
    made = node_keys.init(tmp_path / "n", "north", None, None)
    [line] = made.public.read_text().splitlines()
    kind, text, comment = line.split()
    assert (kind, comment) == ("ecdsa-sha2-nistp384", "north")
    private = serialization.load_ssh_private_key(made.private.read_bytes(), None)
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    assert public.decode() == f"{kind} {text}"
    assert made.key.line == public + b"\n"


def test_the_fingerprint_is_that_of_openssh(tmp_path: Path) -> None:
    made = node_keys.init(tmp_path / "n", "north", None, None)
    argv = ["ssh-keygen", "-lf", str(made.public)]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("no ssh-keygen here")
    assert said.split()[:3] == ["384", made.key.fingerprint, "north"]


def test_what_is_not_known_yet_is_named_and_filled_in_later(tmp_path: Path, ca: Path) -> None:
    folder = tmp_path / "n"
    said = lumos("node", "init", folder, "--name", "north")
    assert f"missing:   {folder / 'ca.crt'}" in said
    assert f"missing:   superlink in {folder / 'node.toml'}" in said
    with pytest.raises(ConfigError, match="key 'superlink' is required"):
        NodeBundle.read(folder, {})
    assert NodeBundle.read(folder, {"superlink": "h:1"}).config.name == "north"
    text = (folder / "node.toml").read_text()
    (folder / "node.toml").write_text(text.replace('# superlink = "HOST:', 'superlink = "h.test:'))
    assert NodeBundle.read(folder, {}).superlink == "h.test:9092"


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "n"
    made = node_keys.init(folder, "north", None, None)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ConfigError, match=r"node\.key: is there already; .*--new-key"):
        node_keys.init(folder, "north", None, None)
    made.private.unlink()
    with pytest.raises(ConfigError, match=r"north\.pub: is there already"):
        node_keys.init(folder, "north", None, None)
    made.private.write_bytes(before[made.private])
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


def test_settings_that_are_there_stay_and_give_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "n"
    folder.mkdir()
    (folder / "node.toml").write_text('superlink = "h:1"\nname = "south"\ndata = "d"\n')
    with pytest.raises(ConfigError, match=r"node\.toml: key 'name': found 'south', expected 'x'"):
        node_keys.init(folder, "x", None, None)
    assert not (folder / "node.key").exists()
    lumos("node", "init", folder)
    assert (folder / "south.pub").exists()
    assert NodeBundle.read(folder, {}).superlink == "h:1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "../x"], "node '../x': expected letters"),
        (["--superlink", "10.0.0.1"], "--superlink: superlink = '10.0.0.1': expected HOST:PORT"),
        (["--ca", "/no/such/ca.crt"], r"/no/such/ca\.crt: cannot be read"),
        (["--new-key", "--superlink", "h:1"], "--new-key only makes a key"),
        (["--new-key"], r"node\.key: is not there, so there is nothing to replace"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    options: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        lumos("node", "init", tmp_path / "n", *options)
    assert list(tmp_path.iterdir()) == []


def test_another_key_is_made_beside_the_one_in_use(tmp_path: Path) -> None:
    folder = tmp_path / "north"
    first = node_keys.init(folder, "north", None, None)
    used = first.private.read_bytes()
    said = lumos("node", "init", folder, "--new-key")
    new = folder / "node.key.new"
    assert first.private.read_bytes() == used
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    credentials.check_node_key(new)
    public = PublicKey.read(folder / "north.pub")
    assert public.line != first.key.line
    assert public.fingerprint in said
    assert "lumos deploy rotate-node SERVER north" in said
    assert f"mv {new} {folder / 'node.key'}" in said
    with pytest.raises(ConfigError, match=r"node\.key\.new: is there already; .* rename it"):
        lumos("node", "init", folder, "--new-key")


# ---------------------------------------------------------------- what is sent
def openssh(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined,no-any-return]
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"x\.pub: cannot be read: No such file.*; expected the \.pub file"),
        (b"", "found 'no key', expected the .pub file"),
        (b"hello world", "found 'hello', expected the .pub file"),
        (openssh(ed25519.Ed25519PrivateKey.generate().public_key()), "found 'ssh-ed25519'"),
        (
            openssh(ec.generate_private_key(ec.SECP384R1()).public_key()) + b" a\nssh-rsa A b\n",
            "has several lines",
        ),
    ],
    ids=["no file", "nothing", "words", "another kind", "two lines"],  # not the keys, made anew
)
def test_what_is_no_public_key_is_named(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.pub"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        PublicKey.read(path)


def test_a_private_key_that_was_sent_is_refused_and_lost(tmp_path: Path) -> None:
    made = node_keys.init(tmp_path / "n", "north", None, None)
    with pytest.raises(ConfigError, match=r"is a private key, .* no secret any more"):
        PublicKey.read(made.private)


@pytest.mark.parametrize("comment", ["", " north", " somebody@host"])
def test_a_comment_is_a_name_or_says_nothing(comment: str, tmp_path: Path) -> None:
    line = openssh(ec.generate_private_key(ec.SECP256R1()).public_key())
    path = tmp_path / "x.pub"
    path.write_bytes(line + comment.encode() + b"\n")
    key = PublicKey.read(path)
    assert key.line == line + b"\n"
    key.check_name("north", path)
    if comment == " north":
        with pytest.raises(ConfigError, match="is the key of node 'north', found the name 'south'"):
            key.check_name("south", path)
