"""New certificates for a deployment that exists; keys of nodes stay as they are.

Three cases, from the usual to the worst:

* the server's certificate expires, or its address changes: :func:`renew`. Nodes need nothing.
* the authority's certificate expires: :func:`extend_authority`. Its key stays, so what it has
  signed stays valid, and nodes get the new ``ca.crt`` some day before the old one expires.
* the authority's key is lost or stolen: :func:`replace_authority`, a new one. Then nodes have to
  know the new one before the server shows a certificate of it. So the server's ``ca.crt`` holds
  both at first; nodes are given it; only then :func:`renew` lets the server change.

A running server notices the new files by itself (:mod:`lumos_core.deployment.server_supervisor`).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from lumos_core.deployment import credentials
from lumos_core.deployment.admission import Place
from lumos_core.deployment.folders import CA, Manifest, ServerKit, checked_hosts
from lumos_core.errors import ConfigError
from lumos_core.safe_files import private_folder, write_atomically

CA_KEY = "ca.key"
SERVER_DAYS = 825


@dataclass(frozen=True)
class Authority:
    """The folder of a deployment's authority, ``ca``, which is kept offline."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / CA

    @property
    def key(self) -> Path:
        return self.folder / CA_KEY

    def read(self) -> x509.Certificate:
        """Its certificate; its key must be there as well.

        Raises:
            ConfigError: one of the two is not.
        """
        if not self.key.exists():
            raise ConfigError(
                f"{self.key}: is not there, expected the key of the deployment's authority; name "
                "its folder with --ca, or, if the key is lost, see 'The authority is lost' in "
                "docs/operations.md"
            )
        credentials.check_private_file(self.key)
        return credentials.check_certificate(self.certificate)


@dataclass(frozen=True)
class Renewed:
    """What was written.

    Attributes:
        kit: the server's folder.
        certificate: the server's certificate.
        authority: the certificate of its authority, as nodes need it.
        authority_changed: whether ``ca.crt`` in the server's folder is another than before, so
            that nodes have to be given it.
    """

    kit: ServerKit
    certificate: x509.Certificate
    authority: x509.Certificate
    authority_changed: bool


def authority_of(folder: Path, ca: Path | None) -> Authority:
    """The authority's folder: ``ca`` if given, otherwise the one beside the server's folder."""
    return Authority(ca if ca is not None else Place.of(folder).server.resolve().parent / "ca")


def renew(
    folder: Path, authority: Authority, hosts: Sequence[str] = (), days: int = SERVER_DAYS
) -> Renewed:
    """Give the server a new key and certificate, and the authority's present ``ca.crt``.

    Args:
        folder: as for :class:`~lumos_core.deployment.admission.Place`.
        authority: signs the certificate.
        hosts: names and addresses for which it is valid; empty: as before.
        days: its validity; no longer than that of the authority.

    Raises:
        ConfigError: a folder is not what it should be, a host is impossible, or somebody else
            changes the deployment at the moment.
    """
    issuer = authority.read()
    most = int(credentials.days_left(issuer))
    with _changed(folder) as (kit, manifest):
        names = checked_hosts(hosts) if hosts else manifest.hosts
        certificate, key = credentials.server_certificate(
            authority.certificate, authority.key, list(names), max(1, min(days, most))
        )
        content = authority.certificate.read_bytes()
        changed = not kit.ca.exists() or kit.ca.read_bytes() != content
        # A server that is started or looks meanwhile sees that key and certificate differ, or that
        # the certificate is not of this authority, and says so or waits.
        write_atomically(kit.key, key, 0o600)
        write_atomically(kit.certificate, certificate)
        write_atomically(kit.ca, content)
        if names != manifest.hosts:
            manifest = manifest.model_copy(update={"hosts": names})
            manifest.write(Place.of(folder).manifest_path)
    kit = ServerKit(kit.folder, manifest)
    return Renewed(kit, credentials.read_certificate(kit.certificate), issuer, changed)


def extend_authority(folder: Path, authority: Authority, days: int = credentials.CA_DAYS) -> None:
    """Give the authority a new certificate for the same key; :func:`renew` then hands it out.

    Raises:
        ConfigError: the key cannot be read, or somebody else changes the deployment.
    """
    if not authority.key.exists():
        authority.read()  # its error
    credentials.check_private_file(authority.key)
    with _changed(folder):
        write_atomically(
            authority.certificate, credentials.authority_certificate(authority.key, days)
        )


def replace_authority(
    folder: Path, authority: Authority, days: int = credentials.CA_DAYS
) -> Path | None:
    """Make a new authority. The server's ``ca.crt`` holds the new and the old certificate then; its
    own certificate stays until :func:`renew` is called.

    Args:
        folder: as for :class:`~lumos_core.deployment.admission.Place`.
        authority: its folder; may be missing.
        days: validity of the new one.

    Returns:
        Where the old files of the authority are now; None if there were none.

    Raises:
        ConfigError: the server's folder is not what it should be, or somebody else changes it.
    """
    with _changed(folder) as (kit, _):
        old = credentials.read_certificates(kit.ca)
        away = _put_away(authority)
        private_folder(authority.folder)
        credentials.new_authority(authority.certificate, authority.key, days)
        used = credentials.issuer_among(credentials.read_certificate(kit.certificate), old)
        kept = [] if used is None else [used]  # not what an earlier call has left as well
        both = [credentials.read_certificate(authority.certificate), *kept]
        write_atomically(kit.ca, b"".join(map(credentials.pem_of, both)))
    return away


@contextmanager
def _changed(folder: Path) -> Iterator[tuple[ServerKit, Manifest]]:
    place = Place.of(folder)
    with place.edited() as manifest:
        yield ServerKit(place.server.resolve(), manifest), manifest


def _put_away(authority: Authority) -> Path | None:
    there = [path for path in (authority.certificate, authority.key) if path.exists()]
    if not there:
        return None
    stem = f"replaced-{datetime.now():%Y%m%d-%H%M%S}"
    names = (stem, *(f"{stem}-{n}" for n in range(2, 99)))
    away = next(path for name in names if not (path := authority.folder / name).exists())
    away.mkdir(mode=0o700)
    for path in there:
        os.rename(path, away / path.name)
    return away
