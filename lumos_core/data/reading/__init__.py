"""Files as people have them: separators, quotes, ids, times, titles. Begin with `table_files`."""
