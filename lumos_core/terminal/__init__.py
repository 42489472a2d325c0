"""What a person sees of long work, and how it is interrupted. Begin with `progress`.

Imports nothing else of LUMOS.
"""
