"""Child processes that end with their parent, however the parent ends. Begin with `children`.

Imports only `lumos_core.errors`, and knows nothing of Flower or of federations.
"""
