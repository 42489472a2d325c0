"""A SuperLink that lets only the owner of a key activate its node, made by changing Flower 1.39.

A node activates itself with a request that holds its public key, and signs it. Flower checks the
signature, but not that it was made with the key in the request. So whoever has any key could
activate the node of a public key that they know, and keep that node out for up to an hour while it
is offline. Here the request has to hold the key that signed it. A public key may then be known.

As in ``bounded_link.py``, which loads the file by its path, Flower is changed only in the version
that this was written for, and only if it is as expected; otherwise a warning is logged.
"""

import importlib
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

log = logging.getLogger(__name__)

FLOWER = "1.39."
ANOTHERS = "The public key is not the one that signed the request"
_SERVICER, _CLASS = "flwr.server.superlink.fleet.grpc_rere.fleet_servicer", "FleetServicer"
_HEADER = "PUBLIC_KEY_HEADER"
Method = Callable[..., Any]


def bind() -> bool:
    """Compare the keys, in this process; returns whether it was arranged."""
    if not version("flwr").startswith(FLOWER):
        return _left(f"this is for Flower {FLOWER}*, found {version('flwr')}")
    owner = getattr(importlib.import_module(_SERVICER), _CLASS, None)
    header = getattr(importlib.import_module("flwr.common.constant"), _HEADER, None)
    read = getattr(importlib.import_module("flwr.supercore.utils"), "get_metadata_bytes", None)
    activate = getattr(owner, "ActivateNode", None)
    if owner is None or header is None or not callable(read) or not callable(activate):
        return _left("Flower's SuperLink does not look as expected")
    owner.ActivateNode = _bound(activate, lambda metadata: read(metadata, header))
    return True


def _bound(activate: Method, signer: Callable[[Any], bytes | None]) -> Method:
    grpc = importlib.import_module("grpc")

    def ActivateNode(self: Any, request: Any, context: Any) -> Any:  # noqa: N802
        # Without node keys (lumos run) Flower looks at no signature, and there is none to compare.
        if self.enable_supernode_auth:
            key = signer(context.invocation_metadata())
            if key is None or key != request.public_key:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, ANOTHERS)
        return activate(self, request, context)

    return ActivateNode


def _left(reason: str) -> bool:
    log.warning("whoever knows a node's public key can keep it out while it is offline: %s", reason)
    return False
