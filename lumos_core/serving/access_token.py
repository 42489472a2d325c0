"""Who may ask: programs on this machine, or whoever has the token.

A service that only this machine can reach needs no token. Any other address needs one: the answers
tell what users bought. A client sends it as ``Authorization: Bearer TOKEN``.
"""

import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

from lumos_core.errors import ConfigError, reason_of
from lumos_core.pages.browser_access import cookie_of, is_loopback, token_cookie
from lumos_core.safe_files import private_folder, write_atomically

TOKEN_FILE = "serve-token"
"""In the node's state folder: the token that is made where one is needed and none is given."""
SHORTEST = 16
COOKIE = "lumos-serve"


@dataclass(frozen=True)
class Access:
    """Who may ask a service.

    Attributes:
        host: the address that it listens on.
        token: what a request must bring; empty: nothing, and only this machine can reach it.
        origin: the file of the token.
    """

    host: str
    token: str = ""
    origin: Path | None = None

    @classmethod
    def of(cls, host: str, token_file: Path | None, state: Path) -> "Access":
        """The access to a service.

        Args:
            host: the address that it listens on.
            token_file: file with the token. Without one, a service that other machines can reach
                gets a token in the node's state folder, and keeps it when it is started again.
            state: the node's state folder.

        Raises:
            ConfigError: the token cannot be read or is none.
        """
        if token_file is None and is_loopback(host):
            return cls(host)
        path = token_file or state / TOKEN_FILE
        if token_file is None and not path.is_file():
            private_folder(state)
            write_atomically(path, f"{secrets.token_urlsafe(32)}\n".encode(), mode=0o600)
        return cls(host, _read(path), path)

    def admits(self, authorization: bytes, cookie: bytes = b"") -> bool:
        """Whether a request with these headers may be answered. Browsers, which send no
        ``Authorization`` by themselves, bring a cookie that the owner's page has given them."""
        if not self.token:
            return True
        scheme, _, given = authorization.partition(b" ")
        if scheme.lower() == b"bearer" and self.is_token(given.strip()):
            return True
        return self.is_token(cookie_of(cookie.decode("latin-1"), COOKIE).encode())

    def is_token(self, given: bytes) -> bool:
        """Whether this is the token; never, where there is none."""
        return bool(self.token) and hmac.compare_digest(given, self.token.encode())

    def cookie(self) -> str:
        """The ``Set-Cookie`` header for a browser whose user has the token."""
        return token_cookie(COOKIE, self.token)

    def knows_host(self, header: bytes) -> bool:
        """Whether a request is for this service by its ``Host`` header.

        Without a token this keeps web pages out. A page may make a browser on this machine resolve
        the page's own name to 127.0.0.1 and read answers; its requests still carry that name.
        """
        if self.token or not header:
            return True
        name, colon, port = header.decode("latin-1").rpartition(":")
        if not colon or not port.isdigit():
            name = header.decode("latin-1")
        return name == self.host or is_loopback(name.strip("[]"))


def _read(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "not text"
        raise ConfigError(
            f"{path}: cannot be read ({reason}); expected a file with a token"
        ) from None
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{path}: not a token: expected one line of at least {SHORTEST} letters and digits, as "
            "'openssl rand -hex 32' prints"
        )
    return token
