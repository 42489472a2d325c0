"""Catalogs, interaction logs, and the histories made of them.

Only what needs no table reader is imported here: a node's process, of which there is one for every
message, goes without polars as long as its data has not changed (:mod:`lumos_core.data.node_cache`).
"""

from lumos_core.data.catalog import Catalog
from lumos_core.data.partition import partition_users
from lumos_core.data.sequences import LeaveOneOut, Sequences

__all__ = ["Catalog", "LeaveOneOut", "Sequences", "partition_users"]
