"""Pages for browsers: each is one file, without scripts unless it is live, and fetches nothing.

Knows nothing of runs: whoever has results describes them as a :class:`~lumos_core.pages.page.Page`
of sections, tables and charts. All text is escaped where it is put into the page, so a name or a
title is never anything but text. Begin reading in :mod:`lumos_core.pages.page`.
"""
