"""What servers of pages tell browsers, and hear from them: who may see a page, and how little it
may do."""

import ipaddress
from http.cookies import CookieError, SimpleCookie


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "shop.example")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def cookie_of(header: str, name: str) -> str:
    """The value of a cookie in a ``Cookie`` header; empty if there is none.

    >>> cookie_of("a=1; lumos=secret", "lumos"), cookie_of("a=1", "lumos")
    ('secret', '')
    """
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def token_cookie(name: str, token: str) -> str:
    """The ``Set-Cookie`` header with which a browser brings a token from now on."""
    return f"{name}={token}; HttpOnly; SameSite=Strict; Path=/"


def page_headers(policy: str, referrer: str) -> dict[str, str]:
    """Headers of a page that nobody else may keep, frame or read."""
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": referrer,
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
