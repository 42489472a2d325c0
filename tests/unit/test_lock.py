"""Pinned packages: lock, bill of materials and pyproject.toml agree; how the three are made."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ENTRY = re.compile(
    r"^([A-Za-z0-9._-]+)==([^ ;\\]+)(?: ; [^\\\n]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$",
    re.MULTILINE,
)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked() -> dict[str, tuple[str, set[str]]]:
    """Normalised name → version and hashes."""
    text = (ROOT / "requirements.lock").read_text("utf-8")
    found = ENTRY.findall(text)
    assert len(found) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)), "all have hashes"
    return {
        canonicalize_name(name): (version, set(re.findall(r"sha256:(\w+)", hashes)))
        for name, version, hashes in found
    }


def bill() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / "sbom.cdx.json").read_text("utf-8"))
    return found


class TestTheyAgree:
    def test_every_dependency_is_satisfied_by_its_pin(self) -> None:
        pins = locked()
        extras = [need for needs in PROJECT["optional-dependencies"].values() for need in needs]
        needs = [Requirement(need) for need in (*PROJECT["dependencies"], *extras)]
        wanted = [n for n in needs if n.name not in ("lumos", "mlflow-skinny")]  # see `dev`
        assert len(wanted) > 30
        for need in wanted:
            version, _ = pins[canonicalize_name(need.name)]
            assert need.specifier.contains(version), f"{need} is pinned as {version}: make lock"

    def test_the_bill_lists_what_is_locked(self) -> None:
        listed = {
            canonicalize_name(package["name"]): (
                package["version"],
                {h["content"] for r in package["externalReferences"] for h in r["hashes"]},
            )
            for package in bill()["components"]
        }
        assert listed == locked(), "make lock"

    def test_the_bill_is_of_this_release(self) -> None:
        found = bill()
        assert found["bomFormat"] == "CycloneDX"
        root = found["metadata"]["component"]
        assert (root["name"], root["version"]) == ("lumos", PROJECT["version"]), "make lock"
        [needs] = [e["dependsOn"] for e in found["dependencies"] if e["ref"] == root["bom-ref"]]
        direct = {canonicalize_name(Requirement(need).name) for need in PROJECT["dependencies"]}
        assert {re.split("[/@]", need)[1] for need in needs} == direct


class TestLock:
    def test_what_no_supported_system_needs_is_left_out(self) -> None:
        lock = script("write_lock")
        text = (
            "# head\n"
            "a==1.0 \\\n    --hash=sha256:aa\n"
            "b==2 ; sys_platform == 'win32' \\\n    --hash=sha256:bb\n"
            "c==3 ; python_full_version < '3.15' \\\n    --hash=sha256:cc\n"
            "d==4 ; sys_platform == 'linux' \\\n    --hash=sha256:dd\n"
            "nvidia-x==5 ; sys_platform == 'linux' \\\n    --hash=sha256:ee\n"
            "triton==6 \\\n    --hash=sha256:ff\n"
        )
        assert list(lock.needed(text)) == [
            "a==1.0 \\\n    --hash=sha256:aa\n",
            "c==3 \\\n    --hash=sha256:cc\n",
            "d==4 ; sys_platform == 'linux' \\\n    --hash=sha256:dd\n",
        ]

    def test_the_committed_lock_is_as_it_is_written(self) -> None:
        lock = script("write_lock")
        text = (ROOT / "requirements.lock").read_text("utf-8")
        assert text == lock._HEAD + "".join(lock.needed(text))


class TestBill:
    def test_a_line_moved_in_the_lock_changes_nothing(self) -> None:
        def made(lines: dict[str, int]) -> dict[str, Any]:
            packages = [
                {
                    "bom-ref": f"requirements-L{line}",
                    "description": f"requirements line {line}",
                    "name": name,
                    "purl": f"pkg:pypi/{name}@1",
                }
                for name, line in lines.items()
            ]
            return {"components": packages, "metadata": {"component": {"bom-ref": "root"}}}

        tidied = script("write_sbom").tidied
        found = tidied(made({"b": 3, "A_x": 7}), {"a-x"})
        assert found == tidied(made({"A_x": 1, "b": 2}), {"a-x"})
        assert found["dependencies"][0] == {"ref": "root", "dependsOn": ["pkg:pypi/A_x@1"]}
        assert "line" not in json.dumps(found)


class TestAudit:
    FINE: ClassVar[dict[str, Any]] = {"name": "a", "version": "1", "vulns": []}
    BAD: ClassVar[dict[str, Any]] = {
        "name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]
    }  # fmt: skip
    SKIPPED: ClassVar[dict[str, Any]] = {"name": "c", "skip_reason": "Dependency not found on PyPI"}

    @pytest.mark.parametrize(
        ("packages", "code", "told"),
        [
            ([FINE], 0, "1 packages were checked; no vulnerability is known"),
            ([FINE, BAD], 1, "b 2: PYSEC-1, repaired in 2.1"),
            ([FINE, SKIPPED], 2, "1 of 2 packages were not checked (c)"),
            ([BAD, SKIPPED], 1, "1 of 2 packages were not checked (c)"),
        ],
    )
    def test_what_was_not_checked_is_never_sound(
        self, packages: list[dict[str, Any]], code: int, told: str
    ) -> None:
        found, text = script("audit_dependencies").verdict(packages)
        assert found == code
        assert told in text
        assert ("no vulnerability is known" in text) == (code == 0)
