"""Which LUMOS, Flower and Python a process has, and whether server and node can work together.

Releases have numbers, and what travels between server and nodes has one of its own, the protocol.
It is raised when an older side would misread a message or compute something else, at most once in a
release. Every release works with its own protocol and with the one before; what it says to an older
node, it says in the older protocol. Whether server and node work together depends on nothing else:
another release with the same protocol costs a line of notice.

A node tells its versions when it describes itself, and when it fails to. A node that tells no
protocol has protocol 0, that of LUMOS 0.1. What a node tells is claimed, not proven.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from platform import python_version_tuple

from lumos_core import __version__
from lumos_core.errors import ReplyError

PROTOCOL = 1
"""CONTRIBUTING.md says when it is raised."""
OLDEST = max(PROTOCOL - 1, 0)
"""The oldest protocol that this release works with."""
UNKNOWN = "unknown"
_TEXT = re.compile(r"[0-9][0-9A-Za-z.+-]{0,29}")
_NUMBER = re.compile(r"[0-9]{1,4}")
_NO_PROTOCOL = -1  # the claim is no number


class OtherProtocolError(ReplyError):
    """A server speaks a protocol that this node does not have."""


@dataclass(frozen=True)
class Versions:
    """The versions of a process; texts are ``unknown`` if they are.

    Attributes:
        lumos: the release.
        protocol: what it speaks; negative if what it claims is no number.
        flower: of the package flwr.
        python: without the third number.
    """

    lumos: str
    protocol: int
    flower: str
    python: str

    @classmethod
    def of(cls, info: Mapping[str, str]) -> "Versions":
        """The versions that a node claims.

        >>> Versions.of({"version": "0.1.0", "users": "12"})
        Versions(lumos='0.1.0', protocol=0, flower='unknown', python='unknown')
        """
        claimed = info.get("protocol", "0")
        protocol = int(claimed) if _NUMBER.fullmatch(claimed) else _NO_PROTOCOL
        lumos, flower, python = (_text(info.get(k, "")) for k in ("version", "flower", "python"))
        return cls(lumos, protocol, flower, python)

    def to_info(self) -> dict[str, str]:
        """As a node tells them."""
        return {
            "version": self.lumos,
            "protocol": str(self.protocol),
            "flower": self.flower,
            "python": self.python,
        }

    def __str__(self) -> str:
        protocol = self.protocol if self.protocol >= 0 else UNKNOWN
        others = {"Flower": self.flower, "Python": self.python}
        told = [f"{name} {value}" for name, value in others.items() if value != UNKNOWN]
        return ", ".join([f"LUMOS {self.lumos}", f"protocol {protocol}", *told])


@cache
def own() -> Versions:
    """The versions of this process."""
    try:
        flower = version("flwr")
    except PackageNotFoundError:  # nothing but the SuperNode and the SuperLink needs it
        flower = UNKNOWN
    return Versions(__version__, PROTOCOL, flower, ".".join(python_version_tuple()[:2]))


def can_serve(node: Versions) -> bool:
    """Whether this server and a node work together: their protocols are at most one apart."""
    return node.protocol >= 0 and abs(node.protocol - PROTOCOL) <= 1


def spoken_with(node: Versions) -> int:
    """The protocol in which this server speaks to a node: the older of the two."""
    return min(PROTOCOL, max(node.protocol, 0))


def check_spoken(protocol: int) -> None:
    """Check that this node understands what a server says.

    Args:
        protocol: the one that the server speaks with this node.

    Raises:
        OtherProtocolError: it does not.
    """
    if not OLDEST <= protocol <= PROTOCOL:
        raise OtherProtocolError(
            f"the server speaks protocol {protocol}, this node has LUMOS {__version__}, which "
            f"works with protocols {OLDEST} to {PROTOCOL}; install the server's release of LUMOS"
        )


def problem_with(node: Versions, server: Versions | None = None) -> str:
    """Why a node cannot take part because of its protocol, and what to install; empty if it can."""
    server = server or own()
    if can_serve(node):
        return ""
    found = f"protocol {node.protocol}" if node.protocol >= 0 else "no known protocol"
    return (
        f"it has LUMOS {node.lumos}, which speaks {found}; this server has LUMOS {server.lumos}, "
        f"which works with protocols {OLDEST} to {PROTOCOL + 1}; {_what_to_install(node, server)}"
    )


def skew_of(node: Versions, server: Versions | None = None) -> str:
    """What differs between a node and this server, and what to install; empty if nothing does."""
    server = server or own()
    pairs = {
        "LUMOS": (node.lumos, server.lumos),
        "protocol": (str(node.protocol), str(server.protocol)),
        "Flower": (node.flower, server.flower),
        "Python": (node.python, server.python),
    }
    others = {name: pair for name, pair in pairs.items() if pair[0] not in (UNKNOWN, pair[1])}
    if not others and UNKNOWN not in (node.lumos, node.flower):
        return ""
    told = ", ".join(f"{name} {a} (here {b})" for name, (a, b) in others.items())
    return f"it has {told or 'unknown versions'}; {_what_to_install(node, server)}"


def _what_to_install(node: Versions, server: Versions) -> str:
    """How to make both sides equal."""
    if _is_newer(node, server):
        return (
            f"install LUMOS {node.lumos} on the server, or on the node: "
            f"pip install lumos=={server.lumos}"
        )
    packages = {
        f"lumos=={server.lumos}": node.lumos != server.lumos,
        f"flwr=={server.flower}": node.flower not in (UNKNOWN, server.flower),
    }
    needed = [name for name, differs in packages.items() if differs]
    if needed:
        return f"install on the node: pip install {' '.join(needed)}"
    return f"Python {server.python} on the node would make both equal"


def _is_newer(node: Versions, server: Versions) -> bool:
    if UNKNOWN in (node.lumos, server.lumos):
        return False
    return (node.protocol, _numbers(node.lumos)) > (server.protocol, _numbers(server.lumos))


def _numbers(release: str) -> tuple[int, ...]:
    """The leading numbers of a release, to compare two of them."""
    return tuple(int(part) for part in re.findall(r"\d+", release.partition("+")[0])[:3])


def _text(claimed: str) -> str:
    """A claimed version if it looks like one, as it is shown beside a command to type."""
    return claimed if _TEXT.fullmatch(claimed) else UNKNOWN
