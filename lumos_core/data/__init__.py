"""Catalogs, interaction logs, and the histories made of them. Begin with `catalog` and `sequences`.

`prepare` makes a folder of nodes (`prepared_folder`, `node_folder`) of a log that `importers/` have
read; `reading/` deals with files as people have them.

Only what needs no table reader is imported here: a node starts a process for every message, which
goes without polars as long as the node's data has not changed (`node_cache`).
"""

from lumos_core.data.catalog import Catalog
from lumos_core.data.partition import partition_users
from lumos_core.data.sequences import LeaveOneOut, Sequences

__all__ = ["Catalog", "LeaveOneOut", "Sequences", "partition_users"]
