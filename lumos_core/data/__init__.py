"""Catalogs, interaction logs, and the histories made of them."""

from lumos_core.data.catalog import Catalog
from lumos_core.data.node_data import read_node
from lumos_core.data.sample import bundled_sample
from lumos_core.data.sequences import LeaveOneOut, Sequences

__all__ = ["Catalog", "LeaveOneOut", "Sequences", "bundled_sample", "read_node"]
