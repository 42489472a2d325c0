"""The ``lumos`` command."""
