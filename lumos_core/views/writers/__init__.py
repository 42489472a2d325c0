"""What writes views: by likelihood or by decoding of the language model, and controls without it.

Begin with `choose`.
"""
