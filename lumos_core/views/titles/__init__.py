"""What is computed once from a catalog's titles: vectors, neighbours, the model's judgements.

May import `llm` beside this package, but not `writers`. Begin with `space`.
"""
