"""The nodes that a server admits: adding, removing, and giving one another key.

Two places can be edited: the folder that ``lumos deploy init`` wrote (with ``server`` in it), from
which ``server`` is then copied to the server's machine, or the server's folder on its machine. A
running server looks at its folder every few seconds (:mod:`lumos_core.deployment.live_admission`).

``deployment.json`` decides who is admitted. It is written last when a node is added and first when
one is removed, so that no state in between admits a key that it should not.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lumos_core.deployment import credentials
from lumos_core.deployment.folders import (
    MANIFEST,
    Manifest,
    ServerKit,
    checked_nodes,
    write_node,
)
from lumos_core.deployment.node_keys import PublicKey
from lumos_core.errors import ConfigError
from lumos_core.safe_files import exclusive, lock_beside, private_folder, write_atomically

_LOCK_SECONDS = 10.0
REMOVED = "removed"


@dataclass(frozen=True)
class Place:
    """A folder that can be edited.

    Attributes:
        root: the folder that was named; files of removed nodes are moved to ``removed`` in it.
        server: the server's folder: ``root`` itself, or the folder ``server`` in it.
    """

    root: Path
    server: Path

    @classmethod
    def of(cls, folder: Path) -> "Place":
        """The place that a command's argument names."""
        inner = folder / "server"
        whole = (inner / MANIFEST).exists() and not (folder / MANIFEST).exists()
        return cls(folder, inner if whole or not folder.is_dir() else folder)

    @property
    def has_bundles(self) -> bool:
        """Whether nodes' folders are kept here as well, as ``lumos deploy init`` writes them."""
        return self.root != self.server

    @property
    def manifest_path(self) -> Path:
        return self.server / MANIFEST

    def bundle(self, name: str) -> Path:
        return self.root / "nodes" / name

    def public_key(self, name: str) -> Path:
        return ServerKit.key_of(self.server, name)

    def files(self, name: str) -> list[Path]:
        """Where files of a node may be."""
        return [*([self.bundle(name)] if self.has_bundles else []), self.public_key(name)]

    @contextmanager
    def edited(self) -> Iterator[Manifest]:
        """The manifest, which nobody else changes meanwhile.

        Raises:
            ConfigError: it cannot be read or is damaged, or somebody else is changing it.
        """
        Manifest.read(self.manifest_path)  # a folder that is none gets no lock file
        refusal = ConfigError(
            f"{self.manifest_path}: another command has been changing it for "
            f"{_LOCK_SECONDS:g} s; try again when that has ended"
        )
        with exclusive(lock_beside(self.manifest_path), _LOCK_SECONDS, refusal, mode=0o600):
            try:
                yield Manifest.read(self.manifest_path)
            finally:
                _keep_owner(self.server)


def _keep_owner(folder: Path) -> None:
    """Give what root has written in a server's folder to the owner of the folder: a service that
    runs as a user of its own could not read its keys otherwise."""
    if os.geteuid() != 0:
        return
    owner = folder.stat()
    written = [path for path in folder.iterdir() if path.is_file() or path.name == "nodes"]
    for path in (*written, *(folder / "nodes").glob("*.pub")):
        if path.lstat().st_uid != owner.st_uid:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def add_node(
    folder: Path, name: str, public_key: Path | None = None, fingerprint: str = ""
) -> Path:
    """Admit one more node.

    Args:
        folder: see :class:`Place`.
        name: the node's name.
        public_key: what its owner has sent; None to make its key and bundle here.
        fingerprint: what its owner has read out; empty if it is compared in another way.

    Returns:
        Its bundle, or the file of its public key if it has made its own.

    Raises:
        ConfigError: the name is impossible or taken, files of such a node are there, the public
            key is none, or another node's, or ``folder`` is not a deployment.
    """
    place = Place.of(folder)
    with place.edited() as manifest:
        [name] = checked_nodes([name])
        if name in manifest.nodes:
            raise ConfigError(
                f"node {name!r} is in {place.manifest_path} already; for another key of this node "
                "run 'lumos deploy rotate-node'"
            )
        for path in place.files(name):
            if path.exists():
                raise ConfigError(
                    f"{path}: is there already, though {place.manifest_path} has no node "
                    f"{name!r}; keys are never overwritten: move it away, or choose another name"
                )
        if public_key is None:
            written = _write_bundle(place, manifest, name)
        else:
            key = _new_key(place, manifest, name, public_key, fingerprint)
            written = place.public_key(name)
            private_folder(written.parent)
            credentials.write_private(written, key.line)
        changed = manifest.model_copy(update={"nodes": (*manifest.nodes, name)})
        changed.write(place.manifest_path)
    return written


def remove_node(folder: Path, name: str) -> Path:
    """Take a node off the server's list and move its files away; returns where they are.

    Raises:
        ConfigError: there is no such node, or no other, or ``folder`` is not a deployment.
    """
    place = Place.of(folder)
    with place.edited() as manifest:
        _check_there(place, manifest, name)
        left = tuple(other for other in manifest.nodes if other != name)
        if not left:
            raise ConfigError(
                f"{place.manifest_path}: {name!r} is the only node, expected another one that "
                "stays; add one first with 'lumos deploy add-node'"
            )
        # The list first: if moving files fails, the server does not register the key all the same.
        manifest.model_copy(update={"nodes": left}).write(place.manifest_path)
        return _moved_away(place, name)


def rotate_node(folder: Path, name: str, public_key: Path, fingerprint: str = "") -> PublicKey:
    """Admit another key under a node's name, instead of the present one; returns the new one.
    Arguments are those of :func:`add_node`.

    The old public key, and the bundle with the old private key if it was made here, are moved to
    the folder ``removed``.

    Raises:
        ConfigError: there is no such node, the public key is none, or a node's already, or
            ``folder`` is not a deployment.
    """
    place = Place.of(folder)
    with place.edited() as manifest:
        _check_there(place, manifest, name)
        key = _new_key(place, manifest, name, public_key, fingerprint)
        path, away = place.public_key(name), _removed_folder(place, name)
        if path.exists():
            credentials.write_private(away / path.name, path.read_bytes())
        write_atomically(path, key.line, 0o600)  # from here on the old key is not admitted
        if place.has_bundles and place.bundle(name).exists():
            place.bundle(name).rename(away / name)
    return key


def _write_bundle(place: Place, manifest: Manifest, name: str) -> Path:
    if not place.has_bundles:
        raise ConfigError(
            f"{place.server}: is a server's folder, in which no node's key is made; give "
            "--public-key FILE, which the node's owner makes with 'lumos node init', or for a "
            "trial the folder that 'lumos deploy init' wrote"
        )
    private_folder(place.root / "nodes")
    return write_node(place.root, manifest, name)


def _new_key(
    place: Place, manifest: Manifest, name: str, path: Path, fingerprint: str
) -> PublicKey:
    """A public key that no node has."""
    key = PublicKey.read(path)
    if fingerprint and fingerprint.strip() != key.fingerprint:
        raise ConfigError(
            f"{path}: has the fingerprint {key.fingerprint}, expected {fingerprint.strip()}; it is "
            "not the file that the node's owner has made, so ask for it by another way"
        )
    key.check_name(name, path)
    for other in manifest.nodes:
        known = place.public_key(other)
        if known.exists() and PublicKey.read(known).line == key.line:
            raise ConfigError(
                f"{path}: is the key that node {other!r} has already ({key.fingerprint}), expected "
                "a new one; every node makes its own, with 'lumos node init', and another one with "
                "--new-key"
            )
    return key


def _check_there(place: Place, manifest: Manifest, name: str) -> None:
    if name not in manifest.nodes:
        there = ", ".join(manifest.nodes) or "none"
        raise ConfigError(f"{place.manifest_path}: has no node {name!r}, found {there}")


def _moved_away(place: Place, name: str) -> Path:
    away = _removed_folder(place, name)
    for found in place.files(name):
        if found.exists():  # a bundle may have been moved to the node's machine
            found.rename(away / found.name)
    return away


def _removed_folder(place: Place, name: str) -> Path:
    """A new folder for files of a node that are not in use any more."""
    (place.root / REMOVED).mkdir(mode=0o700, exist_ok=True)
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    for suffix in ("", *(f"-{n}" for n in range(2, 99))):
        away = place.root / REMOVED / (stem + suffix)
        if not away.exists():
            break
    away.mkdir(mode=0o700)
    return away
