"""The local language model: how it is found, loaded and asked. Begin with `load`.

Imports nothing from `titles` and `writers`.
"""
