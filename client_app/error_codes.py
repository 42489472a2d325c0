"""What a node tells the server when something goes wrong: a code, never an exception's text.

Exceptions may quote paths, titles or histories. Their text and traceback stay in the node's own
log; the server learns which kind of thing failed, which is enough to tell its operator whom to ask.
"""

from lumos_core.errors import ConfigError, DataError, ModelError, RefusalError, ReplyError

CATALOG_MISMATCH = "catalog-mismatch"  # server and node hold different catalogs
LEDGER_FAILED = "ledger-failed"  # nothing may leave that the ledger does not show
SECAGG_REFUSED = "secagg-refused"  # secure aggregation would not have protected this node

_CODES: tuple[tuple[type[BaseException], str], ...] = (
    (ConfigError, "bad-configuration"),
    (DataError, "bad-data"),
    (ModelError, "model-failed"),
    (RefusalError, SECAGG_REFUSED),
    (ReplyError, "bad-instruction"),
    (MemoryError, "out-of-memory"),
    (OSError, "storage-failed"),
)


class CatalogMismatchError(DataError):
    """The server's catalog is not this node's."""


class LedgerError(OSError):
    """The ledger cannot be written."""


def code_of(error: BaseException) -> str:
    """The code under which an exception is reported."""
    if isinstance(error, CatalogMismatchError):
        return CATALOG_MISMATCH
    if isinstance(error, LedgerError):
        return LEDGER_FAILED
    return next((code for kind, code in _CODES if isinstance(error, kind)), "internal-error")
