"""Checks of a machine before it takes part: versions, ports, certificates, disk, memory, data."""

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from lumos_core.errors import LumosError

FLOWER = "1.39."
WARN_DAYS = 30  # of a certificate's life left
FREE_BYTES = 1 << 30
CONNECT_SECONDS = 5.0
LLM_FACTOR = 1.5  # weights, activations and the copy made while loading
_SUFFIXES = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Literal["ok", "warn", "fail"]
    check: str
    found: str
    fix: str = ""


def examine(
    node: Path | None,
    catalog: Path | None,
    certificates: Path | None,
    server: str | None,
    ports: list[int],
    llm: str | None,
) -> list[Finding]:
    """Run the checks that the arguments make possible; none of them changes anything."""
    findings = [_python(), _flower(), *(_port(port) for port in ports)]
    if server is not None:
        findings.append(_reachable(server))
    if certificates is not None:
        findings += _certificates(certificates)
    findings.append(_disk(node or Path()))
    if node is not None:
        findings += _data(node, catalog)
    if llm is not None:
        findings += _llm(llm)
    return findings


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("ok", "Python", found)
    return Finding("fail", "Python", found, "install Python 3.11, 3.12 or 3.13 and run make setup")


def _flower() -> Finding:
    try:
        found = version("flwr")
    except PackageNotFoundError:
        return Finding("fail", "Flower", "not installed", "run make setup")
    if found.startswith(FLOWER):
        return Finding("ok", "Flower", found)
    return Finding("fail", "Flower", found, f"pip install 'flwr=={FLOWER}*': all sides need it")


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            return Finding(
                "fail", "port", f"{port}: {error}", "end what uses it, or choose another"
            )
    return Finding("ok", "port", f"{port} is free")


def _reachable(server: str) -> Finding:
    host, _, port = server.rpartition(":")
    fix = "is the server up, the address right, the firewall open for the fleet port?"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            return Finding("ok", "server", f"{server} accepts connections")
    except ValueError:
        return Finding("fail", "server", server, "expected HOST:PORT, such as example.org:9092")
    except (OSError, OverflowError) as error:
        return Finding("fail", "server", f"{server}: {error}", fix)


def _certificates(folder: Path) -> Iterator[Finding]:
    """Certificates by their suffix ``.crt``; keys must be private, public halves (``.pub``) too:
    who knows one can keep its node out."""
    from lumos_core.deployment.credentials import days_left, read_certificate

    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    found = [p for p in files if p.suffix in (".crt", ".pem")]
    if not found:
        fix = "lumos deploy init makes certificates; copy the node's folder from there"
        yield Finding("fail", "certificates", f"{folder}: no .crt file", fix)
    for path in found:
        try:
            days = days_left(read_certificate(path))
        except LumosError as error:
            yield Finding("fail", "certificate", str(error), "copy it again")
            continue
        level: Literal["ok", "warn", "fail"] = "ok" if days > WARN_DAYS else "warn"
        text = f"{path.name}: {days:.0f} days left"
        fix = "" if level == "ok" else "make new certificates and hand them out"
        yield Finding("fail" if days <= 0 else level, "certificate", text, fix)
    for path in files:
        secret = (
            path.suffix in (".key", ".pub", ".secret") or b"PRIVATE KEY" in path.read_bytes()[:200]
        )
        if secret and path.stat().st_mode & 0o077:
            mode = f"{path.stat().st_mode & 0o777:o}"
            yield Finding("fail", "key file", f"{path} has mode {mode}", f"chmod 600 {path}")


def _disk(folder: Path) -> Finding:
    place = next((p for p in (folder, *folder.resolve().parents) if p.exists()), Path())
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.1f} GB free at {place.resolve()}"
    if free > FREE_BYTES:
        return Finding("ok", "disk", text)
    return Finding("warn", "disk", text, "free some: views, checkpoints and models need about 1 GB")


def _data(folder: Path, catalog: Path | None) -> Iterator[Finding]:
    from lumos_core.data import Catalog
    from lumos_core.data.catalog import short_fingerprint
    from lumos_core.data.layout import PREPARE_NODE
    from lumos_core.data.node_folder import read_node

    try:
        own, sequences = read_node(folder)
    except LumosError as error:
        yield Finding("fail", "data", str(error), "mend the file, or run lumos prepare again")
        return
    text = f"{sequences.users_text}, {len(own)} items"
    if sequences.left_out:
        yield Finding("warn", "data", text, "nothing needs repair: the other users take part")
    else:
        yield Finding("ok", "data", text)
    if not os.access(folder, os.W_OK):
        yield Finding(
            "fail", "state", f"{folder} is not writable", "chown it, or set node key state"
        )
    if catalog is None:
        yield Finding("ok", "catalog", f"fingerprint {short_fingerprint(own.fingerprint)}…")
        return
    try:
        wanted = Catalog.read(catalog).fingerprint
    except LumosError as error:
        yield Finding("fail", "catalog", str(error), "name the run's catalog.tsv")
        return
    same = own.fingerprint == wanted
    ours, theirs = short_fingerprint(own.fingerprint), short_fingerprint(wanted)
    text = f"fingerprint {ours}…, the run's is {theirs}…"
    fix = "" if same else f"take the run's catalog.tsv and prepare mine/node-0: {PREPARE_NODE}"
    yield Finding("ok" if same else "fail", "catalog", text, fix)


def _llm(llm: str) -> Iterator[Finding]:
    """Files there, and memory for them as they lie on the disk (a GGUF grows when unpacked)."""
    import psutil

    from lumos_core.views.llm.find import find_model

    try:
        source = find_model(llm)
    except LumosError as error:
        yield Finding("fail", "LLM", str(error), "name a folder, a .gguf file, or smollm2")
        return
    if source.kind == "hub":
        yield Finding("warn", "LLM", f"{llm} comes from the hub", "memory: lumos llm check")
        return
    place = Path(source.location)
    files = [place] if place.is_file() else [p for p in place.iterdir() if p.suffix in _SUFFIXES]
    size = sum(p.stat().st_size for p in files) * (4 if source.kind == "gguf" else 1)
    needed, there = size * LLM_FACTOR, psutil.virtual_memory().available
    text = f"{llm}: needs about {needed / 1e9:.1f} GB of memory, {there / 1e9:.1f} GB available"
    if there > needed:
        yield Finding("ok", "LLM", text)
    else:
        yield Finding("fail", "LLM", text, "choose a smaller model, or llm-quantization = 4bit")
