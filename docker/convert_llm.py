"""Converts the bundled language model as a node would when it first needs it: called by the
Dockerfile alone.

    convert_llm.py CACHE OUT

``CACHE`` keeps the converted model between builds; ``OUT`` gets a copy that everybody may read.
"""

import shutil
import sys
from pathlib import Path

from lumos_core.views.llm.find import BUNDLED, LLMConfig, converted_folder, find_model
from lumos_core.views.llm.load import load_llm


def main(cache: Path, out: Path) -> None:
    """Convert the model, unless the cache has it, and copy it."""
    source = find_model(BUNDLED)
    converted = converted_folder(Path(source.location), str(source.revision), cache)
    if not converted.is_dir():
        load_llm(LLMConfig(BUNDLED, cache_dir=cache))
    copy = out / converted.name
    shutil.copytree(converted, copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
