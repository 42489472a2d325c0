"""A package that adds one part of every kind to LUMOS, by entry points alone."""
