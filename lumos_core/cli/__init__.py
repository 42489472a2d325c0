"""The ``lumos`` command: a module per command, or per group of commands.

Begin with :mod:`lumos_core.cli.app`, which lists the commands and prints errors. ``options``,
``screens``, ``suites`` and ``lazy`` are what several commands share. This package may import every
other package of ``lumos_core``; only ``lumos_core.__main__`` imports it.
"""
