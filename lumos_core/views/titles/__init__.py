"""What the titles of a catalog say, computed once: vectors, neighbours, judgements.

Begin with `space`.
"""
