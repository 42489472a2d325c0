"""Catalogs, interaction logs, and the histories made of them. Begin with `catalog` and `sequences`.

`importers/` read the logs of published data sets, with `reading/` for the formats of their files.
`prepare` turns such a log into a prepared folder (`prepared_folder`) with a data folder per node
(`node_folder`), and `removed_users` takes users out of it again. May import only `errors`,
`plugins` and `safe_files` outside this package.

Importing this package must not import polars: a node starts a process for every message, and as
long as the node's data has not changed, that process needs no table reader (`node_cache`).
"""

from lumos_core.data.catalog import Catalog
from lumos_core.data.partition import partition_users
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut

__all__ = ["Catalog", "LeaveOneOut", "Sequences", "partition_users"]
