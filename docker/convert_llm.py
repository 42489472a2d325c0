"""Converts the bundled language model as a node would when it first needs it, into
``CACHE/models``: called by the Dockerfile alone.

    convert_llm.py CACHE
"""

import sys
from pathlib import Path

from lumos_core.views.llm.find import BUNDLED, LLMConfig
from lumos_core.views.llm.load import load_llm

if __name__ == "__main__":
    cache = Path(sys.argv[1])
    load_llm(LLMConfig(BUNDLED, cache_dir=cache))
    for lock in (cache / "models").glob(".*.lock"):
        lock.unlink()
