"""Error codes: all that a node tells the server about a failure, never an exception's text.

Exceptions may quote paths, titles or histories. Their text and traceback stay in the node's own
log. The server learns what kind of failure it was, which is enough for its operator to know whom to
ask.
"""

from lumos_core.errors import (
    ArtefactError,
    ConfigError,
    DataError,
    ModelError,
    RefusalError,
    ReplyError,
)
from lumos_core.federation.owner_floor import BelowFloorError
from lumos_core.federation.owner_pause import PausedError
from lumos_core.privacy.node_budget import AccountError
from lumos_core.wire.versions import OtherProtocolError

ARTEFACT_REFUSED = "artefact-refused"  # what stands beside this node's catalog is damaged, or lies
BELOW_FLOOR = "below-floor"  # the run asks for more than the owner allows; the key follows
CATALOG_MISMATCH = "catalog-mismatch"  # server and node hold different catalogs
FOREIGN_APP = "foreign-app"  # lumos_core.flower.app_gate: its owner has not approved what was sent
LEDGER_FAILED = "ledger-failed"  # without its line in the ledger a reply must not leave; without
# being written down first, no training begins
OTHER_PROTOCOL = "other-protocol"  # the server speaks one that this node does not have
PAUSED = "paused"  # by its owner
SECAGG_REFUSED = "secagg-refused"  # secure aggregation would not have protected this node

_CODES: tuple[tuple[type[BaseException], str], ...] = (
    (ConfigError, "bad-configuration"),
    (DataError, "bad-data"),
    (ArtefactError, ARTEFACT_REFUSED),  # a ModelError
    (ModelError, "model-failed"),
    (OtherProtocolError, OTHER_PROTOCOL),
    (RefusalError, SECAGG_REFUSED),
    (ReplyError, "bad-instruction"),
    (MemoryError, "out-of-memory"),
    (OSError, "storage-failed"),
)


class CatalogMismatchError(DataError):
    """The server's catalog is not the same as this node's."""


class LedgerError(OSError):
    """The ledger cannot be written."""


def code_of(error: BaseException) -> str:
    """The code under which an exception is reported."""
    if isinstance(error, CatalogMismatchError):
        return CATALOG_MISMATCH
    if isinstance(error, LedgerError | AccountError):
        return LEDGER_FAILED
    if isinstance(error, PausedError):
        return PAUSED
    if isinstance(error, BelowFloorError):
        plain = error.key == "require-secure-aggregation"
        return SECAGG_REFUSED if plain else f"{BELOW_FLOOR}-{error.key}"
    return next((code for kind, code in _CODES if isinstance(error, kind)), "internal-error")
