"""What looks like JSON lines and is none: arrays, objects over several lines, Python's own
notation. The error says what it is, and gives the command that converts it."""

import re
import shlex
from pathlib import Path

from lumos_core.errors import DataError

_ARRAY = "import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]"
_LITERALS = (
    "import ast, json, sys; "
    "[print(json.dumps(ast.literal_eval(line))) for line in sys.stdin if line.strip()]"
)


def other_json(path: Path, number: int, line: bytes) -> DataError | None:
    """The error about a line that is no JSON object, if its kind is known.

    Args:
        path: the file.
        number: of the line, from 1.
        line: its text.
    """
    start = line.lstrip()
    if start.startswith(b"["):
        kind, program = "is a JSON array (one list of objects)", _ARRAY
    elif re.match(rb"\{u?'", start):
        kind, program = "is in Python's notation, in single quotes, and no JSON", _LITERALS
    elif start.rstrip() == b"{":
        return DataError(
            f"{path}: line {number}: here begins a JSON object over several lines, expected each "
            f"on a line of its own; convert it with: jq -c . {shlex.quote(str(path))}"
        )
    else:
        return None
    return DataError(
        f"{path}: line {number}: {kind}, expected one JSON object per line; convert it with: "
        f"{_command(path, program)}"
    )


def _command(path: Path, program: str) -> str:
    old, python = shlex.quote(str(path)), f'python -c "{program}"'
    packed = path.suffix == ".gz"
    stem = (path.with_suffix("") if packed else path).with_suffix("")
    new = stem.with_name(f"{stem.name}.lines.jsonl")
    read = f"gzip -dc {old} | {python}" if packed else f"{python} < {old}"
    return f"{read} > {shlex.quote(str(new))}"
