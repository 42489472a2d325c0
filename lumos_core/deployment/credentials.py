"""Certificates, keys and secrets of a deployment: making and checking them.

Each deployment has a certificate authority (P-384), which signs the server's certificate (P-256). A
node proves who it is with an elliptic-curve key (P-384) in OpenSSH's format, as Flower reads it. A
SuperExec process shares 32 random bytes with the process that gives it work.
"""

import ipaddress
import os
import re
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lumos_core.errors import ConfigError, reason_of

SECRET_BYTES = 32
CA_DAYS = 3650
_CLOCK_SKEW = timedelta(days=1)  # certificates are valid on machines whose clock is behind
_LOCAL_NAMES = ("localhost", "127.0.0.1")  # for the server's own processes
_DNS = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_PRIVATE = 0o600
_OTHERS = 0o077


# ---------------------------------------------------------------- making
def new_authority(certificate: Path, key: Path, days: int = CA_DAYS) -> None:
    """Write a certificate authority: its certificate, and its key (mode 0600)."""
    private = ec.generate_private_key(ec.SECP384R1())
    write_private(key, _pem(private))
    write_public(certificate, authority_certificate(key, days))


def authority_certificate(key: Path, days: int = CA_DAYS) -> bytes:
    """A certificate of an authority, in PEM. What the same key has signed before is valid under it
    as well.

    Raises:
        ConfigError: the key cannot be read.
    """
    private = _private_key(key)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "LUMOS deployment CA")])
    built = (
        _certificate(name, name, private.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_identifier(private.public_key()), critical=False)
        .sign(private, hashes.SHA384())
    )
    return built.public_bytes(serialization.Encoding.PEM)


def new_server_certificate(
    authority: Path, authority_key: Path, hosts: list[str], certificate: Path, key: Path, days: int
) -> None:
    """Write a certificate for ``hosts`` and this machine's own names, and its key (mode 0600).

    Raises:
        ConfigError: a host is neither a DNS name nor an address, or the authority cannot be read.
    """
    built, private = server_certificate(authority, authority_key, hosts, days)
    write_private(key, private)
    write_public(certificate, built)


def server_certificate(
    authority: Path, authority_key: Path, hosts: list[str], days: int
) -> tuple[bytes, bytes]:
    """A certificate for ``hosts`` and this machine's own names, and its key, both in PEM.

    Raises:
        ConfigError: a host is neither a DNS name nor an address, the authority cannot be read, or
            its key is not that of its certificate.
    """
    issuer, issuer_key = read_certificate(authority), _private_key(authority_key)
    if issuer.public_key() != issuer_key.public_key():
        raise ConfigError(
            f"{authority_key}: is not the key of {authority}; expected the two files of one "
            "authority, as 'lumos deploy init' wrote them"
        )
    private = ec.generate_private_key(ec.SECP256R1())
    names = list(dict.fromkeys([*hosts, *_LOCAL_NAMES]))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "LUMOS server")])
    built = (
        _certificate(subject, issuer.subject, private.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([general_name(n) for n in names]), False)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_identifier(private.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
        )
        .sign(issuer_key, hashes.SHA384())
    )
    return built.public_bytes(serialization.Encoding.PEM), _pem(private)


def new_node_key(private_path: Path, public_path: Path, comment: str = "") -> None:
    """Write a node's key pair, both halves with mode 0600.

    Args:
        private_path: for the private half.
        public_path: for the public half, one line.
        comment: what the line ends with.
    """
    private = ec.generate_private_key(ec.SECP384R1())
    write_private(
        private_path,
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    write_private(public_path, b" ".join(filter(None, (public, comment.encode()))) + b"\n")


def new_secret(path: Path) -> None:
    """Write 32 random bytes with mode 0600."""
    write_private(path, secrets.token_bytes(SECRET_BYTES))


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner may read.

    Raises:
        FileExistsError: the file exists; keys are never overwritten.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "wb") as file:
        file.write(content)


def write_public(path: Path, content: bytes) -> None:
    """Write a new file that everybody may read.

    Raises:
        FileExistsError: the file exists.
    """
    with path.open("xb") as file:
        file.write(content)
    path.chmod(0o644)


def general_name(host: str) -> x509.GeneralName:
    """A host in the form that a certificate holds.

    Raises:
        ConfigError: it is neither a DNS name nor an address.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _DNS.fullmatch(host) or host.replace(".", "").isdigit():
        raise ConfigError(
            f"host {host!r}: expected a DNS name or an IP address without scheme and port, "
            "such as lumos.example.org or 10.0.0.1"
        )
    return x509.DNSName(host)


# ---------------------------------------------------------------- checking
def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file.

    Raises:
        ConfigError: the file is missing or holds none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {reason_of(error)}") from error
    except ValueError:
        raise ConfigError(f"{path}: is not a certificate in PEM format") from None


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a PEM file.

    Raises:
        ConfigError: the file is missing or holds none.
    """
    first = read_certificate(path)  # its errors
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError:
        return [first]


def pem_of(certificate: x509.Certificate) -> bytes:
    """A certificate as it stands in a file."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256, as ``openssl x509 -noout -fingerprint -sha256`` prints it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def issuer_among(
    certificate: x509.Certificate, authorities: list[x509.Certificate]
) -> x509.Certificate | None:
    """The authority that has signed a certificate: of several with the same key, the one that is
    valid for longest; None if there is none."""
    signed = []
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        signed.append(authority)
    return max(signed, key=lambda found: found.not_valid_after_utc, default=None)


def check_issuer(certificate: Path, authority: Path) -> x509.Certificate:
    """The certificate in ``authority`` whose key has signed the one in ``certificate``.

    Raises:
        ConfigError: a file cannot be read, or none of the authorities has signed it.
    """
    found = issuer_among(read_certificate(certificate), read_certificates(authority))
    if found is None:
        raise ConfigError(
            f"{certificate}: is not signed by the authority in {authority}, so no node could trust "
            "it; make a new one with 'lumos deploy renew'"
        )
    return found


def is_key_of(key: Path, certificate: Path) -> bool:
    """Whether two files are a certificate and its key, and not, for a moment, of two renewals.

    Raises:
        ConfigError: one of them cannot be read.
    """
    return read_certificate(certificate).public_key() == _private_key(key).public_key()


def days_left(certificate: x509.Certificate) -> float:
    """Days until a certificate expires; negative afterwards."""
    return (certificate.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)


def check_certificate(path: Path) -> x509.Certificate:
    """Read a certificate and check its dates against this machine's clock.

    Raises:
        ConfigError: it is missing, damaged, expired or not valid yet.
    """
    found = read_certificate(path)
    now = datetime.now(UTC)
    if found.not_valid_after_utc < now:
        raise ConfigError(
            f"{path}: expired on {found.not_valid_after_utc:%Y-%m-%d} (this machine's clock says "
            f"{now:%Y-%m-%d}); set the clock, or make a new one: 'lumos deploy renew'"
        )
    if found.not_valid_before_utc > now:
        raise ConfigError(
            f"{path}: is valid from {found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on, but this "
            f"machine's clock says {now:%Y-%m-%d %H:%M}; set the clock"
        )
    return found


def check_private_file(path: Path) -> None:
    """Check that a secret file exists and that nobody else can read it.

    Raises:
        ConfigError: it is missing, or its group or others have rights to it.
    """
    try:
        mode = path.stat().st_mode & 0o777
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {reason_of(error)}") from error
    if mode & _OTHERS:
        raise ConfigError(f"{path}: others may use it (mode {mode:04o}); run: chmod 600 {path}")


def check_node_key(path: Path) -> None:
    """Check that a node's private key is private and has the format that Flower uses.

    Raises:
        ConfigError: it is missing, readable by others, or not an elliptic-curve OpenSSH key.
    """
    check_private_file(path)
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm, OSError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            f"{path}: is not an unencrypted elliptic-curve key in OpenSSH's format, as "
            "'lumos node init' writes it"
        )


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {reason_of(error)}") from error
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: is not an elliptic-curve key in PEM format")
    return key


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _identifier(key: ec.EllipticCurvePublicKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
