"""``certificates.json`` in a run's folder: when the server's certificates expire.

The supervisor of a deployed server writes the file. ``lumos status`` and the metrics read it, so
that they need neither the certificates nor a library that reads these. A run without TLS has none.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from lumos_core.safe_files import JsonFile

FILE = "certificates.json"
"""Its name in a run folder."""
WARN_DAYS = 30.0
"""Before a certificate expires, so that a person who looks once a month sees it in time."""
_DAY = 86_400.0
NAMES = {"server": "the server's certificate", "ca": "the certificate of the server's authority"}
REPAIRS = {
    "server": "lumos deploy renew",
    "ca": "lumos deploy renew --extend-ca, then give ca.crt to the nodes",
}
"""By the keys of the file: in words, and the command that makes a new one."""


class CertificateDates(JsonFile):
    """The file.

    Attributes:
        expires: Unix time at which a certificate expires, by ``server`` and ``ca``.
    """

    expires: dict[str, float] = Field(default_factory=dict)

    @classmethod
    def of_run(cls, run_dir: Path) -> "CertificateDates":
        """What is known of a run's certificates; nothing if there is no file, or a damaged one."""
        return cls.read_if_sound(run_dir / FILE) or cls()

    def days(self, now: float | None = None) -> dict[str, float]:
        """Days until each expires; negative afterwards."""
        now = time.time() if now is None else now
        return {name: (when - now) / _DAY for name, when in sorted(self.expires.items())}

    def warnings(self, now: float | None = None) -> list[str]:
        """A sentence for each that expires soon, or has expired."""
        return [
            warning(NAMES.get(name, name), self.expires[name], REPAIRS.get(name, ""), now)
            for name, days in self.days(now).items()
            if days < WARN_DAYS
        ]


def warning(what: str, expires: float, repair: str, now: float | None = None) -> str:
    """A sentence about a certificate that expires soon.

    Args:
        what: the certificate.
        expires: Unix time.
        repair: what to do; empty if that is said elsewhere.
        now: Unix time; None for that of the clock.
    """
    days = (expires - (time.time() if now is None else now)) / _DAY
    date = f"{datetime.fromtimestamp(expires, UTC):%Y-%m-%d}"
    when = f"expires in {days:.0f} days, on {date}" if days >= 0 else f"expired on {date}"
    return f"{what} {when}" + (f": {repair}" if repair else "")
