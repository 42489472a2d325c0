"""Writes ``docs/sbom.cdx.json``, the bill of materials of ``requirements.lock``, as CycloneDX.

    python scripts/write_sbom.py

Called by ``make lock``. ``cyclonedx-py`` makes it; uv fetches that program for this call alone. The
result is the same for the same lock: it holds no time and no serial number. Entries are named by
their package URL instead of a line of the lock, and packages that LUMOS itself asks for are listed
as its dependencies.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SBOM = ROOT / "docs" / "sbom.cdx.json"
MAKER = "cyclonedx-bom==7.5.0"


def main() -> None:
    """Write the file; ends with the program's exit code if it fails."""
    uv = str(Path(sys.executable).parent / "uv")
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "sbom.json"
        command = [
            uv, "tool", "run", "--quiet", "--from", MAKER, "cyclonedx-py", "requirements",
            "requirements.lock", "--pyproject", "pyproject.toml", "--output-reproducible",
            "--output-format", "JSON", "--output-file", str(made),
        ]  # fmt: skip
        # it warns that LUMOS has no dependencies, which are added below
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
        if code := subprocess.run(command, cwd=ROOT, env=quiet, check=False).returncode:
            sys.exit(code)
        bill = tidied(json.loads(made.read_text("utf-8")), direct_needs())
    SBOM.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n", "utf-8")


def direct_needs() -> set[str]:
    """Normalised names of the packages in ``[project] dependencies``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {normalised(re.split(r"[^\w.-]", need)[0]) for need in project["dependencies"]}


def tidied(bill: dict[str, Any], direct: set[str]) -> dict[str, Any]:
    """A bill of materials whose entries do not depend on the lines of the lock.

    Args:
        bill: as ``cyclonedx-py`` makes it.
        direct: normalised names of the packages that LUMOS asks for itself.
    """
    packages = []
    for package in bill["components"]:
        kept = {key: value for key, value in package.items() if key != "description"}
        packages.append({**kept, "bom-ref": package["purl"]})
    packages.sort(key=lambda package: str(package["purl"]))
    root = bill["metadata"]["component"]["bom-ref"]
    needs = [p["purl"] for p in packages if normalised(str(p["name"])) in direct]
    nodes = [{"ref": package["purl"]} for package in packages]
    edges = [{"ref": root, "dependsOn": needs}, *nodes]
    return {**bill, "components": packages, "dependencies": edges}


def normalised(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
