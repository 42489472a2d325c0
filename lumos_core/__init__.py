"""LUMOS: federated sequential recommendation with views written by a local LLM.

Everything in this package runs without Flower; ``client_app`` and ``server_app`` connect it to one.
"""

__version__ = "0.1.0"
"""The same as in pyproject.toml; written out, because the app that Flower hands to its processes is
not an installed package."""
