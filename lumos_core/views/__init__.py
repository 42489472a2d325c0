"""Views of a user's history: lists of catalog items, written by a local LLM, stored by content.

`writers/` write views, `llm/` runs the language model, `titles/` holds what is computed once from a
catalog's titles, and `view_store` keeps what was written. May import `config`, `data` and what lies
below them, but not `learning`. Begin with `view`, then `source`.
"""
