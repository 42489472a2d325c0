"""Importers of data sets as their owners publish them; each makes a `raw_log.RawLog`.

They may use `reading/` and the modules of `data` that read logs and catalogs. Begin with `detect`.
"""
