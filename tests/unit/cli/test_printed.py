"""What documents show as the output of commands is what the commands print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "operations.md"
PLACE = "/srv/shop"  # stands for the folder in which the commands are given


def shown() -> list[tuple[str, list[str]]]:
    """Each command in the ``console`` fences of a page, and the lines that follow it."""
    text = PAGE.read_text(encoding="utf-8")
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


@pytest.mark.skipif(not PAGE.is_file(), reason="an installed package is without documents")
def test_commands_print_what_the_page_shows(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "lumos"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m lumos_core "$@"\n')
    program.chmod(0o755)
    place = tmp_path / "shop"
    place.mkdir()
    env = {
        **os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "COLUMNS": "80",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    commands = shown()
    assert any(command.startswith("lumos node ingest") for command, _ in commands)
    for command, lines in commands:
        done = subprocess.run(
            ["bash", "-c", command], cwd=place, env=env, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        )  # fmt: skip
        printed = done.stdout.replace(str(place.resolve()), PLACE).splitlines()
        assert printed == lines, command
        assert (done.returncode == 0) == (not any(x.startswith("error:") for x in lines)), command
