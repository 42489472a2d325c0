"""A node's key pair, made on the node's own machine, and the public half as it travels.

The private half never leaves the machine. The public half is a file of one line, in OpenSSH's
format, whose comment is the node's name::

    ecdsa-sha2-nistp384 AAAAE2VjZHNh… north

Whoever admits the node compares the fingerprint of the line with the one that the node's owner
reads out; ``ssh-keygen -lf FILE`` prints the same.
"""

import base64
import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lumos_core.config import NODE_NAME
from lumos_core.deployment import credentials
from lumos_core.deployment.folders import (
    CA,
    NODE_KEY,
    NODE_SETTINGS,
    checked_nodes,
    node_settings,
    split_address,
)
from lumos_core.errors import ConfigError, reason_of
from lumos_core.safe_files import private_folder, write_atomically

NEW_KEY = f"{NODE_KEY}.new"
"""Beside a node's key: the one that takes its place once the server has admitted it."""
_LONGEST = 4096  # bytes of a file with a public key; a line has about 230
_CURVES = ("secp256r1", "secp384r1", "secp521r1")  # those that Flower accepts
_EXPECTED = "the .pub file of one line that 'lumos node init' wrote"


@dataclass(frozen=True)
class PublicKey:
    """The public half of a node's key.

    Attributes:
        line: kind and key, without the comment, with the end of the line.
        comment: the rest of the line; the node's name, if ``lumos node init`` wrote it.
    """

    line: bytes
    comment: str

    @classmethod
    def read(cls, path: Path) -> "PublicKey":
        """Read a file that was sent by a node's owner.

        Raises:
            ConfigError: it cannot be read, holds a private key, or no key that Flower accepts.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_LONGEST)
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read: {reason_of(error)}; expected {_EXPECTED}"
            ) from error
        if b"PRIVATE KEY" in content:
            raise ConfigError(
                f"{path}: is a private key, expected {_EXPECTED}; a private key that has left its "
                "machine is no secret any more: have the node's owner make another one"
            )
        return cls.parsed(content, str(path))

    @classmethod
    def parsed(cls, content: bytes, source: str) -> "PublicKey":
        """The key in a line of text.

        Args:
            content: the line.
            source: where it is from, for error messages.

        Raises:
            ConfigError: it is no key that Flower accepts.
        """
        words = content.split(maxsplit=2)
        try:
            key = serialization.load_ssh_public_key(b" ".join(words[:2]))
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
            kind = words[0][:40].decode(errors="replace") if len(words) > 1 else "no key"
            raise ConfigError(
                f"{source}: found {kind!r}, expected {_EXPECTED}: an elliptic-curve key in "
                "OpenSSH's format"
            )
        line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        comment = words[2].decode(errors="replace").strip() if len(words) > 2 else ""
        if "\n" in comment:
            raise ConfigError(f"{source}: has several lines, expected {_EXPECTED}")
        return cls(line + b"\n", comment)

    @property
    def fingerprint(self) -> str:
        """To be compared by people, as OpenSSH writes it."""
        digest = hashlib.sha256(base64.b64decode(self.line.split()[1])).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def check_name(self, name: str, path: Path) -> None:
        """Check that the file is not of another node. A comment that cannot be a node's name, such
        as the USER@HOST of ssh-keygen, says nothing.

        Raises:
            ConfigError: it is.
        """
        if self.comment and self.comment != name and re.fullmatch(NODE_NAME, self.comment):
            raise ConfigError(
                f"{path}: is the key of node {self.comment!r}, found the name {name!r}; a node "
                f"that is not called as in its node.toml is left out: give the name "
                f"{self.comment!r}, or another file"
            )


@dataclass(frozen=True)
class NewNode:
    """What ``lumos node init`` wrote.

    Attributes:
        private: the key, which stays.
        public: the file for the server's operator.
        key: what that file holds.
        settings: ``node.toml``.
        missing: what the folder still lacks, in words.
    """

    private: Path
    public: Path
    key: PublicKey
    settings: Path
    missing: tuple[str, ...]


def init(folder: Path, name: str, superlink: str | None, ca: Path | None) -> NewNode:
    """Make a node's folder on its own machine: the key, its public half, and ``node.toml`` and
    ``ca.crt`` where they are not there yet.

    Args:
        folder: new, or without a key.
        name: the node's name.
        superlink: the server's address, if it is known already.
        ca: certificate of the server's authority, if it is here already.

    Raises:
        ConfigError: the name or address is impossible, the certificate cannot be read, or the
            folder holds a key already.
    """
    [name] = checked_nodes([name])
    if superlink is not None:
        split_address(superlink, "--superlink")
    if ca is not None:
        credentials.check_certificate(ca)
    private, public = folder / NODE_KEY, folder / f"{name}.pub"
    for path in (private, public):
        if path.exists():
            raise ConfigError(
                f"{path}: is there already; keys are never overwritten: to replace the key of this "
                f"node run 'lumos node init {folder} --new-key', for another node choose another "
                "folder"
            )
    settings = folder / NODE_SETTINGS
    if settings.exists() and (known := name_of(folder)) != name:
        raise ConfigError(
            f"{settings}: key 'name': found {known!r}, expected {name!r}; correct one of the two"
        )
    private_folder(folder)
    credentials.new_node_key(private, public, name)
    if not settings.exists():
        credentials.write_public(settings, node_settings(name, superlink).encode())
    if ca is not None and ca.resolve() != (folder / CA).resolve():
        write_atomically(folder / CA, ca.read_bytes())
    missing = () if (folder / CA).exists() else (f"{folder / CA}, the server's ca.crt",)
    if superlink is None:
        missing = (*missing, f"superlink in {settings}, the server's address")
    return NewNode(private, public, PublicKey.read(public), settings, missing)


def new_key(folder: Path, name: str) -> NewNode:
    """Make the key that is to take the place of a node's present one, which stays in use.

    Args:
        folder: the node's folder.
        name: the node's name, as in its ``node.toml``.

    Raises:
        ConfigError: the folder holds no key, or a new one already.
    """
    [name] = checked_nodes([name])
    old, private, public = folder / NODE_KEY, folder / NEW_KEY, folder / f"{name}.pub"
    if not old.exists():
        raise ConfigError(
            f"{old}: is not there, so there is nothing to replace; expected a node's folder: "
            f"'lumos node init {folder} --name {name}' makes its first key"
        )
    if private.exists():
        raise ConfigError(
            f"{private}: is there already; keys are never overwritten: rename it to {NODE_KEY} if "
            f"the server has admitted it, or delete it and {public} if it has not"
        )
    public.unlink(missing_ok=True)  # it can be computed from the private half at any time
    credentials.new_node_key(private, public, name)
    return NewNode(private, public, PublicKey.read(public), folder / NODE_SETTINGS, ())


def name_of(folder: Path) -> str:
    """The name in a folder's ``node.toml``.

    Raises:
        ConfigError: the file cannot be read, or has none.
    """
    path = folder / NODE_SETTINGS
    name = _settings(path).get("name")
    if not isinstance(name, str):
        raise ConfigError(f"{path}: key 'name' is missing, expected the node's name; give --name")
    return name


def _settings(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {reason_of(error)}; give the node's name with --name"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
