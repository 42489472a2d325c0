"""Checks of a machine. Two commands, ``doctor`` and ``node check``, choose from one list.

============  ======================================================  ======  ==========
check         looks at                                                doctor  node check
============  ======================================================  ======  ==========
Python        its version                                             yes
Flower        its version                                             yes     yes
port          whether it is free on this machine                      yes
disk          free space                                              yes
certificate   the dates of one, or of all in a folder                 yes     yes
key file      who may read it; of a node's own, also what it holds    yes     yes
server        whether it answers, and has the expected certificate    yes     yes
data          a node's catalog and interactions                       yes     yes
catalog       whether it is the run's                                 yes
state         whether the node can write there                        yes     yes
device        whether torch can compute on it                                 yes
LLM           whether it is there, and whether it fits into memory    yes     yes
============  ======================================================  ======  ==========

A check is a generator and does its work while it is iterated over, so a caller can stop at the
first finding.
"""

import os
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil

from lumos_core.data import Catalog
from lumos_core.data.catalog import short_fingerprint
from lumos_core.data.layout import PREPARE_NODE
from lumos_core.deployment import credentials
from lumos_core.deployment.folders import split_address
from lumos_core.errors import ConfigError, LumosError, ModelError, reason_of
from lumos_core.flower import app_gate
from lumos_core.learning.devices import check_device
from lumos_core.runs.certificate_dates import WARN_DAYS
from lumos_core.safe_files import private_folder
from lumos_core.views.llm.find import BUNDLED, find_model

EXPIRES_SOON_DAYS = WARN_DAYS
FREE_BYTES = 1 << 30
CONNECT_SECONDS = 5.0
LLM_FACTOR = 1.5  # weights, activations and the copy made while loading
_SUFFIXES = (".safetensors", ".gguf")


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
        level: how bad it is.
        check: the check's name.
        found: what is there.
        fix: what to do about it.
        error: why a node cannot start; None if it can start, even if something else is wrong.
    """

    level: Literal["ok", "warn", "fail"]
    check: str
    found: str
    fix: str = ""
    error: LumosError | None = None


def _refusal(check: str, error: LumosError, fix: str) -> Finding:
    return Finding("fail", check, str(error), fix, error)


# ---------------------------------------------------------------- the machine
def python() -> Iterator[Finding]:
    """Whether this Python is one that LUMOS runs on."""
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        yield Finding("ok", "Python", found)
    else:
        fix = "install Python 3.11, 3.12 or 3.13 and run make setup"
        yield Finding("fail", "Python", found, fix)


def flower() -> Iterator[Finding]:
    """Whether Flower is installed, in the version that server and nodes need."""
    try:
        found = version("flwr")
    except PackageNotFoundError:
        yield Finding("fail", "Flower", "not installed", "run make setup")
        return
    reason = app_gate.wrong_flower()
    if not reason:
        yield Finding("ok", "Flower", found)
    else:
        fix = f"pip install flwr=={app_gate.FLOWER}: all sides need it"
        yield Finding("fail", "Flower", found, fix, ConfigError(reason))


def port(number: int) -> Iterator[Finding]:
    """Whether a port is free on this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", number))
        except (OSError, OverflowError) as error:
            fix = "end the program that uses it, or choose another port"
            yield Finding("fail", "port", f"{number}: {error}", fix)
            return
    yield Finding("ok", "port", f"{number} is free")


def disk(folder: Path) -> Iterator[Finding]:
    """Whether the disk has room where a folder is, or will be."""
    place = next((p for p in (folder, *folder.resolve().parents) if p.exists()), Path())
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.1f} GB free at {place.resolve()}"
    if free > FREE_BYTES:
        yield Finding("ok", "disk", text)
    else:
        fix = "free some: views, checkpoints and models need about 1 GB"
        yield Finding("warn", "disk", text, fix)


def device(name: str) -> Iterator[Finding]:
    """Whether torch can compute on a device here."""
    try:
        check_device(name)
    except ConfigError as error:
        yield _refusal("device", error, "name a device that is here, or cpu")


# ---------------------------------------------------------------- credentials and server
def certificate(path: Path) -> Iterator[Finding]:
    """Whether a certificate is valid, and does not expire soon. A file may hold several, as
    ``ca.crt`` does while an authority is replaced."""
    try:
        first = credentials.check_certificate(path)
        found = credentials.read_certificates(path)
    except ConfigError as error:
        fix = "copy it again, or make new certificates with lumos deploy renew and hand them out"
        yield _refusal("certificate", error, fix)
        return
    days = credentials.days_left(first)
    text = f"{path} expires in {days:.0f} days"
    if len(found) > 1:
        text += f" (the first of {len(found)} certificates in it)"
    if days >= EXPIRES_SOON_DAYS:
        yield Finding("ok", "certificate", text)
        return
    is_authority = first.issuer == first.subject
    fix = "lumos deploy renew" + (" --extend-ca, and give ca.crt to nodes" * is_authority)
    yield Finding("warn", "certificate", text, fix)


def authority(path: Path) -> Iterator[Finding]:
    """Whether a node has the certificate of its server's authority, and it is valid."""
    if path.exists():
        yield from certificate(path)
        return
    missing = ConfigError(
        f"{path}: is not there, expected the certificate of the server's authority, which is "
        "public: copy the ca.crt that the server's operator gives you there"
    )
    yield _refusal("certificate", missing, "ask the server's operator for ca.crt")


def certificates(folder: Path) -> Iterator[Finding]:
    """Certificates in a folder, found by their suffixes. Keys must be private; so must the files of
    public keys (``.pub``) be, which say who takes part."""
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    found = [p for p in files if p.suffix in (".crt", ".pem")]
    if not found:
        fix = "lumos deploy init makes certificates; a node gets ca.crt from the server's operator"
        yield Finding("fail", "certificates", f"{folder}: no .crt file", fix)
    for path in found:
        yield from certificate(path)
    for path in files:
        if path.suffix in (".key", ".pub", ".secret") or b"PRIVATE KEY" in path.read_bytes()[:200]:
            yield from _private(path)


def _private(path: Path) -> Iterator[Finding]:
    try:
        credentials.check_private_file(path)
    except ConfigError as error:
        yield _refusal("key file", error, f"chmod 600 {path}")


def node_key(path: Path) -> Iterator[Finding]:
    """Whether a node's key is private and has the format that Flower uses."""
    try:
        credentials.check_node_key(path)
    except ConfigError as error:
        yield _refusal("key file", error, "make it with lumos node init, or copy it again")


def server(address: str, ca: Path | None = None) -> Iterator[Finding]:
    """Whether a server accepts connections and, if ``ca`` is given, is the right server.

    A connection that is cut or gets no answer means that the server is not there yet: a forwarded
    port behaves in this way until its server has been started. A node waits for such a server.

    Args:
        address: ``HOST:PORT``.
        ca: do a TLS handshake and expect a certificate of this authority; None: only connect.
    """
    try:
        host, number = split_address(address, "--server")
    except ConfigError as error:
        fix = "expected HOST:PORT, such as example.org:9092"
        yield Finding("fail", "server", address, fix, error)
        return
    try:
        with socket.create_connection((host, number), CONNECT_SECONDS) as connection:
            if ca is not None:
                _shake_hands(connection, address, host, ca)
    except ConfigError as error:
        yield _refusal("server", error, "take the bundle that belongs to this server")
    except (OSError, UnicodeError) as error:  # UnicodeError: the host cannot be a DNS name
        fix = "is the server up, the address right, the firewall open for the fleet port?"
        text = f"{address} cannot be reached yet ({_why_unreachable(error)})"
        yield Finding("fail", "server", text, fix)
    else:
        yield Finding("ok", "server", f"{address} accepts connections")


# Without the end of TLS, and with it: which of the two a connection that is cut raises, depends on
# OpenSSL. Docker's published ports cut connections in this way until the server listens.
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


def _shake_hands(connection: socket.socket, address: str, host: str, ca: Path) -> None:
    """Raises ConfigError if it is not the right server, OSError if the connection is lost."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])  # the protocol of gRPC
    try:
        with context.wrap_socket(connection, server_hostname=host):
            return
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"{address}: its certificate is refused: {error.verify_message}; expected one "
            f"that {ca} has signed, for {host}, valid now (the clock here says "
            f"{time.strftime('%Y-%m-%d %H:%M')}); take the bundle that belongs to this server"
        ) from None
    except _CUT:
        raise
    except ssl.SSLError as error:
        raise ConfigError(
            f"{address}: answers, but without TLS as expected of the server "
            f"({error.reason}); take the fleet port of 'lumos deploy server': correct superlink "
            "in node.toml, or --superlink"
        ) from None


def _why_unreachable(error: OSError | UnicodeError) -> str:
    if isinstance(error, _CUT):  # their own texts speak of TLS internals only
        return "Connection closed by peer"
    return reason_of(error) if isinstance(error, OSError) else str(error)


# ---------------------------------------------------------------- a node's folders
def data(folder: Path, catalog: Path | None = None) -> Iterator[Finding]:
    """Whether a node's data can be read, and its catalog is the run's.

    Args:
        folder: with ``catalog.tsv`` and ``interactions.tsv``.
        catalog: the run's catalog; None if it is not known here.
    """
    from lumos_core.data.node_folder import read_node  # imports polars

    try:
        own, sequences = read_node(folder)
    except LumosError as error:
        yield _refusal("data", error, "repair the file, or run lumos prepare again")
        return
    ours = short_fingerprint(own.fingerprint)
    text = f"{sequences.users_text}, {len(own)} items, catalog {ours}"
    if sequences.left_out:
        yield Finding("warn", "data", text, "nothing needs repair: the other users take part")
    else:
        yield Finding("ok", "data", text)
    if catalog is None:
        return
    try:
        wanted = Catalog.read(catalog).fingerprint
    except LumosError as error:
        yield _refusal("catalog", error, "name the run's catalog.tsv")
        return
    text = f"fingerprint {ours}…, the run's is {short_fingerprint(wanted)}…"
    if own.fingerprint == wanted:
        yield Finding("ok", "catalog", text)
    else:
        fix = f"take the run's catalog.tsv and prepare mine/node-0: {PREPARE_NODE}"
        yield Finding("fail", "catalog", text, fix)


def may_write(folder: Path) -> Iterator[Finding]:
    """Whether a data folder, where the state usually is, is writable; nothing is written."""
    if folder.is_dir() and not os.access(folder, os.W_OK):
        fix = "chown it, or set node key state"
        yield Finding("fail", "state", f"{folder} is not writable", fix)


def state(folder: Path) -> Iterator[Finding]:
    """Whether a state folder can be written: it is made, for this user alone, and a file in it is
    written and removed."""
    try:
        private_folder(folder)
        probe = folder / ".writable"
        probe.write_bytes(b"lumos")
        probe.unlink()
    except OSError as error:
        refusal = ConfigError(
            f"{folder}: cannot be written: {reason_of(error)}; the node keeps its views and its "
            "ledger there; choose another folder with --state"
        )
        yield _refusal("state", refusal, "chown it, or choose another folder")


# ---------------------------------------------------------------- the language model
def llm(name: str) -> Iterator[Finding]:
    """Whether a model can be found; it is not loaded."""
    try:
        find_model(name)
    except ModelError as error:
        fix = "name a folder, a .gguf file, or smollm2"
        yield Finding("fail", "LLM", str(error), fix, ConfigError(f"key 'llm': {error}"))


def node_llm(name: str) -> Iterator[Finding]:
    """Whether a node's own model can be found from any folder, because its processes start in
    another one.

    Args:
        name: empty if the node uses the run's model, which is not known here.
    """
    place = Path(name).expanduser()
    if name not in ("", BUNDLED) and place.exists() and not place.is_absolute():
        error = ConfigError(
            f"key 'llm': found the relative path {name!r}, expected an absolute one, since the "
            f"node's processes start in a folder of their own; write {str(place.resolve())!r}"
        )
        yield _refusal("LLM", error, f"write {str(place.resolve())!r}")
    elif name:
        yield from llm(name)


def memory(name: str) -> Iterator[Finding]:
    """Whether there is memory for a model that can be found, estimated from the size of its files
    (a GGUF file grows when it is unpacked)."""
    try:
        source = find_model(name)
    except ModelError:
        return
    if source.kind == "hub":
        yield Finding("warn", "LLM", f"{name} comes from the hub", "memory: lumos llm check")
        return
    place = Path(source.location)
    files = [place] if place.is_file() else [p for p in place.iterdir() if p.suffix in _SUFFIXES]
    size = sum(p.stat().st_size for p in files) * (4 if source.kind == "gguf" else 1)
    needed, there = size * LLM_FACTOR, psutil.virtual_memory().available
    text = f"{name}: needs about {needed / 1e9:.1f} GB of memory, {there / 1e9:.1f} GB available"
    if there > needed:
        yield Finding("ok", "LLM", text)
    else:
        fix = "choose a smaller model, or llm-quantization = 4bit"
        yield Finding("fail", "LLM", text, fix)
