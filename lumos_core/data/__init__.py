"""Catalogs, interaction logs, and the histories made of them."""

from lumos_core.data.catalog import Catalog
from lumos_core.data.node_data import read_node
from lumos_core.data.partition import partition_users
from lumos_core.data.prepare import PreparedDataset, prepare
from lumos_core.data.prepared import load_prepared, node_folders
from lumos_core.data.sample import bundled_sample
from lumos_core.data.sequences import LeaveOneOut, Sequences

__all__ = [
    "Catalog",
    "LeaveOneOut",
    "PreparedDataset",
    "Sequences",
    "bundled_sample",
    "load_prepared",
    "node_folders",
    "partition_users",
    "prepare",
    "read_node",
]
