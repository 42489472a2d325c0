"""What the documents refer to exists: files, headings, modules, commands with their options, keys.

A document that is not there is skipped. A source distribution is without ``docs/results``: links to
it are skipped there.
"""

import ast
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import click
import pytest
import typer

from lumos_core.cli.app import app
from lumos_core.config import NodeConfig, RunConfig

ROOT = Path(__file__).resolve().parents[2]
INDEX = ROOT / "docs" / "README.md"
RESULTS = ROOT / "docs" / "results"
NAMES = (
    "README.md",
    "CONTRIBUTING.md",
    "docker/README.md",
    "deploy/README.md",
    "docs/results/README.md",
)
DOCUMENTS = [
    path for path in (*(ROOT / name for name in NAMES), *sorted(INDEX.parent.glob("*.md")))
    if path.is_file()
]  # fmt: skip
EACH = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)
KEYS = RunConfig().to_flat().keys() | NodeConfig(data=".").to_flat().keys()
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def code(text: str, language: str | None = None) -> str:
    """Everything in fences, of one language or of all, and what is indented like code."""
    blocks = [block for name, block in CODE.findall(text) if language in (None, name)]
    indented = re.findall(r"^(?: {4}| {6})\S.*$", CODE.sub("", text), re.MULTILINE)
    return "\n".join([*blocks, *(indented if language is None else ())])


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    found: Counter[str] = Counter()
    result: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", CODE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        result.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return result


def links(path: Path) -> Iterator[tuple[Path, str]]:
    """Files that a document links to, and anchors in them."""
    prose = re.sub(r"`[^`\n]+`", "", CODE.sub("", path.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"\w+:", target):
            file, _, anchor = target.partition("#")
            yield ((path.parent / file).resolve() if file else path), anchor


def commands(text: str) -> Iterator[list[str]]:
    """Words of each ``lumos`` command in a document's code, without the program's name."""
    lines = re.sub(r" *\\\n *", " ", code(text)).splitlines()
    variables: dict[str, str] = {}
    for line in lines:
        line = re.sub(r"\$([A-Z]+)\b", lambda m: variables.get(m[1], m[0]), line.strip())
        if assignment := re.fullmatch(r"([A-Z]+)=(\S+|\"[^\"]*\")", line):
            variables[assignment[1]] = assignment[2].strip('"')
        for part in re.split(r"&&|\|\|", line):
            if match := re.match(r"(?:\S*/)?lumos (?=[a-z])(.*)", part.strip()):
                yield shlex.split(match[1], comments=True)


def read(words: list[str]) -> None:
    """Raises click.ClickException if the program does not understand them."""
    command: Any = typer.main.get_command(app)
    context = click.Context(command)
    while isinstance(command, click.Group):
        _, command, words = command.resolve_command(context, words)
    command.make_context("lumos", words, parent=context)


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            if find_spec(".".join(parts[:n])) is None:
                continue
        except ModuleNotFoundError:  # its parent is not a package
            continue
        found: Any = import_module(".".join(parts[:n]))
        for part in parts[n:]:
            found = getattr(found, part, None)
        return found is not None
    return False


@EACH
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in links(path):
        if target.is_relative_to(RESULTS) and not RESULTS.is_dir():
            continue
        assert target.exists(), target
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{target}#{anchor}"


@EACH
def test_programs_and_modules_are_where_they_are_said_to_be(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    roots = "lumos_core|client_app|server_app|benchmarks|scripts|tests"
    for file in re.findall(rf"(?<![\w./])(?:{roots})/[\w/]+\.py\b", text):
        assert (ROOT / file).is_file(), file
    for name in re.findall(r"(?<![\w./-])lumos_core(?:\.[A-Za-z_]\w*)+", text):
        assert resolves(name), name
    for node in ast.walk(ast.parse(code(text, "python"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lumos_core"):
            for alias in node.names:
                assert resolves(f"{node.module}.{alias.name}"), f"{node.module}: {alias.name}"


@EACH
def test_commands_are_understood(path: Path) -> None:
    for words in commands(path.read_text(encoding="utf-8")):
        try:
            read(words)
        except click.ClickException as error:
            pytest.fail(f"lumos {shlex.join(words)}: {error.format_message()}")
        for option, setting in pairwise(words):
            if option in ("-c", "--config"):
                assert setting.partition("=")[0].removeprefix("node.") in KEYS, setting


def test_the_index_has_every_page() -> None:
    linked = {target for target, _ in links(INDEX)}
    assert set(DOCUMENTS) - linked == {INDEX}


def test_the_table_of_the_chaos_run_is_that_of_its_results() -> None:
    """Of the fault table in docs/faults.md: every line is one of the committed tables."""
    tables = sorted((ROOT / "benchmarks" / "results").glob("chaos*.md"))
    if not tables:
        pytest.skip("a source distribution is without results")
    measured = [line for path in tables for line in path.read_text().splitlines()[2:]]
    names = [
        "kill", "hang", "link", "delay", "internal", "unavailable", "unimplemented", "disk",
        "clock", "hostile",
    ]  # fmt: skip
    text = (ROOT / "docs" / "faults.md").read_text()
    shown = re.findall(rf"^\| (?:{'|'.join(names)})[a-z-]* \|.*$", text, re.MULTILINE)
    assert len(shown) > 20
    assert [line for line in shown if line not in measured] == []


def _section(path: Path, heading: str) -> str:
    """The text below a heading, up to the next one of any level."""
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def test_the_tables_of_the_active_audit_are_those_of_its_results() -> None:
    """Every line of the tables in docs/privacy.md is one of the committed table."""
    measured = RESULTS / "privacy" / "active.md"
    if not measured.is_file():
        pytest.skip("a source distribution is without results")
    lines = measured.read_text(encoding="utf-8").splitlines()
    shown = _section(ROOT / "docs" / "privacy.md", "The active server, measured").splitlines()
    shown = [line for line in shown if line.startswith("| ")]
    assert len(shown) > 15
    assert [line for line in shown if line not in lines] == []


@pytest.mark.parametrize(
    ("name", "heading", "seeds", "methods", "attacks", "share"),
    [
        (
            "attacks-published",
            "The bundled sample: attacks and defences of other papers", 3, 4, 9, max,
        ),
        ("attacks-present", "The bundled sample: the present method", 1, 3, 8, max),
        ("attacks-one-user", "The bundled sample: one user a client", 1, 2, 9, min),
        ("attacks-one-user-movers", "One user a client: a mean over movers", 1, 1, 9, min),
    ],
)  # fmt: skip
def test_tables_of_attacks_are_those_of_their_results(
    name: str, heading: str, seeds: int, methods: int, attacks: int,
    share: Callable[[set[int]], int],
) -> None:  # fmt: skip
    from lumos_core.experiments.poisoning.attack_table import lost
    from lumos_core.experiments.results_file import ResultsFile

    folder = RESULTS / name
    if not folder.is_dir():
        pytest.skip("a source distribution is without results")
    results = list(ResultsFile(folder, RunConfig()).read().values())
    malicious = share({r["scenario"]["malicious"] for r in results} - {0})

    def cell(method: str, attack: str) -> str:
        runs = [
            r for r in results
            if (r["method"], r["scenario"]["attack"]) == (method, attack)
            and r["scenario"]["malicious"] in (0, malicious)
        ]  # fmt: skip
        assert len(runs) == seeds
        hits = f"{mean(r['hr@20'] for r in runs):.4f}"
        if attack == "none":
            return hits
        change = round(-mean(lost(results, runs, "hr@20")), 4) + 0.0  # no negative zero
        exposed = mean(r["er@10"] for r in runs)
        return f"{hits} ({change:+.4f}), ER {exposed:.3f}".replace("-", "−")

    rows = [
        [part.strip().strip("`") for part in line.strip("|").split("|")]
        for line in _section(ROOT / "docs" / "attacks.md", heading).splitlines()
        if line.startswith("| ")
    ]
    assert len(rows[0][1:]) == methods
    assert len(rows[1:]) == attacks
    for attack, *cells in rows[1:]:
        name = "none" if attack == "no attack" else attack
        assert cells == [cell(method, name) for method in rows[0][1:]], attack


def test_the_table_of_the_month_is_that_of_its_results() -> None:
    path = ROOT / "benchmarks" / "results" / "daily_runs.json"
    if not path.is_file():
        pytest.skip("a source distribution is without results")
    found = json.loads(path.read_text(encoding="utf-8"))
    shown = {
        row[1]: row[2:]
        for row in re.findall(
            r"^\| (.*)\(`([a-z ]+)`\) \| (\d+) \| (\S+) \| (\S+) \| (\S+) \|$",
            _section(ROOT / "docs" / "operations.md", "A run every night"), re.MULTILINE,
        )
    }  # fmt: skip
    assert shown.keys() == found["hr@20"].keys()
    rounds = {"frozen": 0, "long cold": found["long_rounds"]}
    for kind, cells in shown.items():
        assert cells == (
            str(rounds.get(kind, found["rounds"])), f"{found['hr@20'][kind]:.4f}",
            f"{found['new']['hr@20'][kind]:.4f}", f"{found['cpu_seconds'].get(kind, 0):,.0f}",
        )  # fmt: skip
