"""The writers of views: by likelihood or by decoding of the language model; controls without it.

They may import `llm` and `titles` beside this package. Begin with `choose`.
"""
