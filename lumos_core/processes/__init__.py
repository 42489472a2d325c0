"""Child processes that end with their parent, however the parent ends. Begin with `children`.

Imports only `lumos_core.errors` and `lumos_core.safe_files`; knows nothing of Flower or of
federations.
"""
