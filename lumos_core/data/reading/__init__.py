"""Reads files as people have them: separators, quotes, ids, times, titles.

Outside this package it imports only `layout` of `data`. Begin with `table_files`.
"""
