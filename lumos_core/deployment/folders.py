"""The folders of a deployment, as ``lumos deploy init`` writes them::

    OUT/ca/        ca.crt, ca.key              keep it offline: signs server certificates only
    OUT/server/    deployment.json, ca.crt, server.crt, server.key, superexec.secret, nodes/*.pub
    OUT/nodes/N/   ca.crt, node.key, node.toml                     all that node N's machine needs
    OUT/removed/   files of nodes that 'lumos deploy remove-node' removed

A node that makes its own key (``lumos node init``) has such a folder on its machine only, and
``OUT/nodes`` has none for it. ``deployment.json`` holds no secrets. Folders have mode 0700, keys
and secrets 0600.
"""

import os
import re
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from lumos_core.config import NODE_NAME, NodeConfig
from lumos_core.deployment import credentials
from lumos_core.errors import ConfigError, LumosError, reason_of
from lumos_core.safe_files import JsonFile

MANIFEST = "deployment.json"
CA, NODE_KEY, NODE_SETTINGS = "ca.crt", "node.key", "node.toml"

_TEMPLATE = """\
# Settings of this node, read by: lumos node start FOLDER
# Relative paths start at this file's folder.

{superlink}  # the server's address; the only one that this machine must reach
name = "{name}"  # bound to node.key; the server knows no other node by it

data = "data"  # folder with catalog.tsv and interactions.tsv; never leaves this machine
# state = "state"  # views, ledger, logs; default: the folder state in data
# tags = []  # public words by which a run may choose this node, e.g. ["eu", "large"]
# llm = "smollm2"  # local LLM, if not the one of the run: a folder, a .gguf file or a name
# llm-quantization = "none"  # none, 8bit or 4bit
# threads = 1  # CPU threads of training and of the LLM
# device = "cpu"
# prepare-seconds = 0.0  # for views before the first round; 0: until every user has some
# view-seconds = 60.0  # for views in a round, where some are missing still
# approved-apps = []  # digests of apps that run here besides the installed LUMOS

# The floor: what no run may go below, whatever its server asks for; docs/privacy.md explains each.
# 'lumos node policy FOLDER' shows it in plain words, and what runs have spent so far.
# require-secure-aggregation = false
# allowed-dp = ["none", "central", "distributed", "user"]  # e.g. ["user"]: each user is protected
# min-noise-multiplier = 0.0
# max-run-epsilon = 0.0  # 0: no limit, here and below
# max-total-epsilon = 0.0  # over all runs together
# min-users = 1
# allowed-llms = []  # models beside smollm2 that a run may name
# max-local-epochs = 0
# max-training-seconds = 0.0
# max-rounds-a-day = 0
# max-bytes-a-day = 0
"""


class Manifest(JsonFile):
    """``deployment.json``: what the server has to know; it holds no secrets.

    Attributes:
        schema_version: ``format`` in the file.
        hosts: names and addresses that the server's certificate is for; nodes use the first.
        port: the fleet port.
        nodes: their names; the public key of each is in ``nodes/<name>.pub``.
    """

    failure: ClassVar[type[LumosError]] = ConfigError
    origin: ClassVar[str] = "the folder 'server' that 'lumos deploy init' wrote"

    schema_version: int = Field(default=1, alias="format")
    hosts: tuple[str, ...]
    port: int = Field(strict=False)
    nodes: tuple[str, ...]

    @property
    def superlink(self) -> str:
        """The address that nodes connect to."""
        return f"{_bracketed(self.hosts[0])}:{self.port}"


@dataclass(frozen=True)
class ServerKit:
    """The server's folder."""

    folder: Path
    manifest: Manifest

    @classmethod
    def read(cls, folder: Path) -> "ServerKit":
        """Read and check the folder.

        Raises:
            ConfigError: a file is missing, damaged, expired or readable by others.
        """
        kit = cls(folder.resolve(), Manifest.read(folder / MANIFEST))
        credentials.check_certificate(kit.ca)
        credentials.check_certificate(kit.certificate)
        credentials.check_issuer(kit.certificate, kit.ca)
        for path in (kit.key, kit.secret, *map(kit.public_key, kit.manifest.nodes)):
            credentials.check_private_file(path)
        return kit

    @property
    def ca(self) -> Path:
        return self.folder / CA

    @property
    def certificate(self) -> Path:
        return self.folder / "server.crt"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"

    @property
    def secret(self) -> Path:
        """Shared by the SuperLink and the SuperExec that starts ServerApps."""
        return self.folder / "superexec.secret"

    def public_key(self, node: str) -> Path:
        return self.key_of(self.folder, node)

    @staticmethod
    def key_of(folder: Path, node: str) -> Path:
        """Where a server's folder has a node's public key."""
        return folder / "nodes" / f"{node}.pub"


@dataclass(frozen=True)
class NodeBundle:
    """A node's folder: the server's address and authority, the node's key, and its settings."""

    superlink: str
    ca: Path
    key: Path
    config: NodeConfig

    @classmethod
    def read(cls, folder: Path, changes: Mapping[str, Any]) -> "NodeBundle":
        """Read ``node.toml`` of a bundle, with ``changes`` (keys as in the file) on top.

        Raises:
            ConfigError: the file is missing or malformed, a key is unknown or a value impossible.
        """
        path = folder / NODE_SETTINGS
        try:
            found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read: {reason_of(error)}; expected a folder that "
                "'lumos deploy init' wrote for this node"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is not TOML: {error}") from None
        for key in ("data", "state"):  # relative to this file, unlike paths on the command line
            if isinstance(found.get(key), str) and found[key]:
                found[key] = str(folder.resolve() / found[key])
        merged = {**found, **changes}
        superlink = merged.pop("superlink", None)
        if not isinstance(superlink, str):
            raise ConfigError(f"{path}: key 'superlink' is required, such as \"10.0.0.1:9092\"")
        split_address(superlink, "--superlink" if "superlink" in changes else str(path))
        config = _node_config(path, found, merged)
        return cls(superlink, folder.resolve() / CA, folder.resolve() / NODE_KEY, config)


def _node_config(path: Path, found: Mapping[str, Any], merged: Mapping[str, Any]) -> NodeConfig:
    """The configuration from file and command line; an error says which of the two is wrong."""
    try:
        return NodeConfig.from_flat(merged)
    except ConfigError as error:
        try:
            of_file = {key: found[key] for key in merged if key in found}
            NodeConfig.from_flat({"data": str(path.parent), **of_file})
        except ConfigError as wrong:
            raise ConfigError(f"{path}: {wrong}") from None
        raise ConfigError(f"on the command line: {error}") from None


# ---------------------------------------------------------------- writing
def create(out: Path, hosts: Sequence[str], nodes: Sequence[str], port: int, days: int) -> Manifest:
    """Write all folders of a deployment; if that fails, none of them is left behind.

    Args:
        out: a folder that does not exist, or is empty.
        hosts: names and addresses by which nodes reach the server; the first goes into their
            settings.
        nodes: names of the nodes whose keys are made here; the others make their own.
        port: the fleet port.
        days: validity of the server's certificate.

    Raises:
        ConfigError: a host or name is impossible, or ``out`` holds something.
    """
    manifest = Manifest(hosts=checked_hosts(hosts), port=port, nodes=checked_nodes(nodes))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"{out}: is there already; credentials are never overwritten: choose another folder "
            "or move this one away (nodes with the old keys are then refused)"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as place:
        work = Path(place) / "deployment"
        _write(work, manifest, days)
        os.rename(work, out)  # over an empty folder, or nothing
    return manifest


def node_names(text: str) -> list[str]:
    """``3`` → node-0, node-1, node-2 (as ``lumos prepare`` names them); ``a,b`` → a, b.

    Raises:
        ConfigError: no node at all.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if len(names) == 1 and names[0].isdigit():
        names = [f"node-{n}" for n in range(int(names[0]))]
    if not names:
        raise ConfigError(f"--nodes {text!r}: expected their number, or names like north,south")
    return names


def split_address(text: str, source: str) -> tuple[str, int]:
    """``host:port`` → host, port; an IPv6 address is written in brackets.

    Raises:
        ConfigError: it is not of that form.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"{source}: superlink = {text!r}: expected HOST:PORT, such as 10.0.0.1:9092"
        )
    return host, int(port)


def _write(out: Path, manifest: Manifest, days: int) -> None:
    for folder in (out, out / "ca", out / "server", out / "server" / "nodes", out / "nodes"):
        folder.mkdir(mode=0o700)
    authority, authority_key = out / "ca" / CA, out / "ca" / "ca.key"
    credentials.new_authority(authority, authority_key)
    kit = ServerKit(out / "server", manifest)
    credentials.new_server_certificate(
        authority, authority_key, list(manifest.hosts), kit.certificate, kit.key, days
    )
    credentials.write_public(kit.ca, authority.read_bytes())
    credentials.new_secret(kit.secret)
    for name in manifest.nodes:
        write_node(out, manifest, name)
    manifest.write(kit.folder / MANIFEST)


def write_node(out: Path, manifest: Manifest, name: str) -> Path:
    """Make a node's key and write its bundle to ``OUT/nodes``; returns the bundle."""
    bundle, kit = out / "nodes" / name, ServerKit(out / "server", manifest)
    bundle.mkdir(mode=0o700)
    credentials.new_node_key(bundle / NODE_KEY, kit.public_key(name))
    credentials.write_public(bundle / CA, kit.ca.read_bytes())
    settings = node_settings(name, manifest.superlink)
    credentials.write_public(bundle / NODE_SETTINGS, settings.encode())
    return bundle


def node_settings(name: str, superlink: str | None) -> str:
    """The text of a new ``node.toml``.

    Args:
        name: the node's name.
        superlink: the server's address; None if its owner has to fill it in.
    """
    address = '# superlink = "HOST:9092"' if superlink is None else f'superlink = "{superlink}"'
    return _TEMPLATE.format(superlink=address, name=name)


def checked_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Hosts without repetitions.

    Raises:
        ConfigError: there is none, or one is neither a DNS name nor an address.
    """
    if not hosts:
        raise ConfigError("--host: give the name or address by which nodes reach the server")
    for host in hosts:
        credentials.general_name(host)
    return tuple(dict.fromkeys(hosts))


def checked_nodes(nodes: Sequence[str]) -> tuple[str, ...]:
    """Names of nodes.

    Raises:
        ConfigError: one is impossible, or there twice.
    """
    for name in nodes:
        if not re.fullmatch(NODE_NAME, name):
            raise ConfigError(
                f"node {name!r}: expected letters, digits, '.', '_' and '-', beginning with a "
                "letter or digit, 64 at most"
            )
    if len(set(nodes)) != len(nodes):
        raise ConfigError("--nodes: a name is given twice; every node needs its own name")
    return tuple(nodes)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
