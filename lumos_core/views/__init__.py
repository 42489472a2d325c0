"""Views of a history: written by a local LLM, checked against the catalog, stored by content."""
