"""Hypothesis without time limits per example: machines of tests are shared and noisy."""

from hypothesis import settings

settings.register_profile("lumos", deadline=None)
settings.load_profile("lumos")
