"""Asks PyPI which packages of ``requirements.lock`` have known vulnerabilities.

    python scripts/audit_dependencies.py

Called by ``make audit-deps``. ``pip-audit`` asks; uv fetches that program for this call alone.
Exit codes: 0 – all packages were checked and none has a known vulnerability; 1 – some have; 2 –
not all could be checked, which is never counted as sound.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
AUDITOR = "pip-audit==2.10.1"
SOUND, VULNERABLE, UNKNOWN = 0, 1, 2
_SHOWN = 5


def main() -> int:
    """Ask, print what was found, and return the exit code."""
    uv = str(Path(sys.executable).parent / "uv")
    command = [
        uv, "tool", "run", "--quiet", "--from", AUDITOR, "pip-audit", "--disable-pip",
        "--require-hashes", "--requirement", "requirements.lock", "--format", "json",
        "--progress-spinner", "off", "--timeout", "20",
    ]  # fmt: skip
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(found.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        print(found.stderr, end="", file=sys.stderr)
        print(
            "audit-deps: nothing was checked: the vulnerability service of PyPI cannot be reached "
            "from here, or pip-audit failed (its reason is above); try again with access to "
            "https://pypi.org"
        )
        return UNKNOWN
    code, text = verdict(packages)
    print(text)
    return code


def verdict(packages: list[dict[str, Any]]) -> tuple[int, str]:
    """Exit code and text for the answers of pip-audit about packages."""
    lines = [
        f"{p['name']} {p['version']}: {flaw['id']}, repaired in "
        f"{', '.join(flaw['fix_versions']) or 'no version yet'}"
        for p in packages
        for flaw in p.get("vulns", [])
    ]
    skipped = [str(p["name"]) for p in packages if "skip_reason" in p]
    if lines:
        lines.append("raise these versions: make lock ARGS='--upgrade-package NAME'")
    if skipped:
        some = ", ".join(skipped[:_SHOWN]) + (" …" if len(skipped) > _SHOWN else "")
        lines.append(
            f"{len(skipped)} of {len(packages)} packages were not checked ({some}): the "
            "vulnerability service does not answer for them; it is at https://pypi.org, which "
            "this machine may not reach"
        )
    if not lines:
        lines.append(f"{len(packages)} packages were checked; no vulnerability is known")
    code = VULNERABLE if any(p.get("vulns") for p in packages) else UNKNOWN if skipped else SOUND
    return code, "\n".join(f"audit-deps: {line}" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
