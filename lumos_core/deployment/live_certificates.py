"""A server's certificates while it runs: when they expire, and whether they have been renewed.

Flower's SuperLink reads its certificate once, when it starts. So after a renewal everything of the
server is started again; the run resumes after its last finished round, and nodes, which keep trying
meanwhile, come back by themselves.
"""

import time
from collections.abc import Callable
from pathlib import Path

from rich.markup import escape

from lumos_core.deployment import credentials
from lumos_core.deployment.folders import ServerKit
from lumos_core.errors import ConfigError, FederationError, LumosError
from lumos_core.runs.certificate_dates import FILE, WARN_DAYS, CertificateDates, warning

LOOK_SECONDS = 2.0
_DAY = 86_400.0
Tell = Callable[[str], None]


class RenewedError(FederationError):
    """The server's certificate is another than the one that the SuperLink has read."""


def server_dates(kit: ServerKit) -> CertificateDates:
    """When the server's certificate and that of its authority expire.

    Raises:
        ConfigError: one cannot be read, or the authority has not signed the other.
    """
    issuer = credentials.check_issuer(kit.certificate, kit.ca)
    own = credentials.read_certificate(kit.certificate)
    return CertificateDates(
        expires={
            "server": own.not_valid_after_utc.timestamp(),
            "ca": issuer.not_valid_after_utc.timestamp(),
        }
    )


class Daily:
    """Shows warnings at once, and once a day as long as there are any.

    Args:
        warnings: what there is to say now.
        tell: shows a line (rich markup).
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        warnings: Callable[[], list[str]],
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._warnings, self._tell, self._clock = warnings, tell, clock
        self._due = clock()

    def look(self) -> None:
        """Show what is due."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + _DAY
        for text in self._warnings():
            self._tell(f"[yellow]{escape(text)}[/]")


def authority_warnings(ca: Path) -> list[str]:
    """What a node has to know about the certificates in its ``ca.crt``; a file that cannot be read
    is told when the node starts."""
    try:
        found = credentials.read_certificates(ca)
    except ConfigError:
        return []
    last = max(certificate.not_valid_after_utc.timestamp() for certificate in found)
    if last - time.time() >= WARN_DAYS * _DAY:
        return []
    return [warning(str(ca), last, "ask the server's operator for the new ca.crt")]


class LiveCertificates:
    """Notes when certificates expire, warns in time, and notices that they have been renewed.

    Args:
        kit: the server's folder, which the SuperLink has been started with.
        run_dir: the run's folder, where the dates are noted.
        tell: shows a line (rich markup).
        clock: seconds; replaced in tests.
    """

    def __init__(
        self, kit: ServerKit, run_dir: Path, tell: Tell, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kit, self._tell, self._clock = kit, tell, clock
        self._used = kit.certificate.read_bytes()
        self._due = 0.0
        self._told = ""
        self._daily = Daily(self._noted(run_dir).warnings, tell, clock)

    def look(self) -> None:
        """Look at the files, every few seconds.

        Raises:
            RenewedError: the certificate has been renewed, and can be used.
        """
        self._daily.look()
        if self._clock() < self._due:
            return
        self._due = self._clock() + LOOK_SECONDS
        try:
            if self._kit.certificate.read_bytes() == self._used:
                return
            self._check()
        except (LumosError, OSError) as error:
            self._tell_once(f"{error}; until then the server keeps its present certificate")
            return
        left = credentials.days_left(credentials.read_certificate(self._kit.certificate))
        raise RenewedError(
            f"the server has a new certificate, valid for {left:.0f} days; everything is started "
            "again to use it"
        )

    def _noted(self, run_dir: Path) -> CertificateDates:
        """The dates, written to the run's folder. That they cannot be is no reason to end a run."""
        try:
            dates = server_dates(self._kit)
            dates.write(run_dir / FILE)
        except (LumosError, OSError) as error:
            self._tell_once(f"{error}; lumos status does not show when certificates expire")
            return CertificateDates()
        return dates

    def _check(self) -> None:
        """Raises ConfigError if a server could not be started with the new files: they may be
        copied one after the other."""
        credentials.check_certificate(self._kit.certificate)
        credentials.check_issuer(self._kit.certificate, self._kit.ca)
        credentials.check_private_file(self._kit.key)
        if not credentials.is_key_of(self._kit.key, self._kit.certificate):
            raise ConfigError(
                f"{self._kit.key}: is not the key of {self._kit.certificate}; expected both from "
                "one call of 'lumos deploy renew'"
            )

    def _tell_once(self, problem: str) -> None:
        if problem != self._told:
            self._told = problem
            self._tell(f"[yellow]{escape(problem)}[/]")
