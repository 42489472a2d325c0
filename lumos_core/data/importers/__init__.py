"""Data sets as their owners publish them, each turned into a `raw_log`. Begin with `detect`."""
