"""What a person sees: the progress of long work and how it is interrupted, tables of its results.

Begin with `progress`. Imports nothing else of LUMOS.
"""
