"""Output for people: progress of long work, Ctrl-C during it, and tables of results.

Begin with `progress`. Imports nothing else from LUMOS.
"""
