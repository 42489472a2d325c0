"""The table of methods is the only place that knows them."""

import ast
from pathlib import Path

import lumos_core
from lumos_core.config import METHODS, RunConfig, fixed
from lumos_core.learning.training import OBJECTIVES

ROOT = Path(lumos_core.__file__).parents[1]


def test_every_method_has_an_objective() -> None:
    assert {method.objective for method in METHODS.values()} == set(OBJECTIVES)


def test_nobody_compares_a_method_with_a_name() -> None:
    found = []
    for folder in ("lumos_core", "client_app", "server_app"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare):
                    sides = [node.left, *node.comparators]
                    names = {s.value for s in sides if isinstance(s, ast.Constant)}
                    if names & set(METHODS):
                        found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


def test_a_run_from_before_a_key_existed_is_still_itself() -> None:
    before = {k: v for k, v in RunConfig().to_flat().items() if k != "encoder"}
    assert fixed(RunConfig().to_flat()) == fixed(before)
