"""Prints docs/protocol.md: the protocol's tables as the code has them, each below its essay.

    python scripts/protocol_page.py > docs/protocol.md

Called by `make docs`. An essay is the docstring of the module that holds the table.
"""

import inspect
from collections.abc import Iterable
from types import ModuleType

from client_app import duties
from lumos_core.federation import closing, outcomes, round_loop
from lumos_core.privacy.secure_aggregation import participant
from lumos_core.terminal.tables import markdown_table

HEAD = """\
# The protocol

What server and nodes do when, in tables: the round loop on the server, the close of a round, the
messages that a node answers, and the steps of secure aggregation. The code works by these tables.
Made by `make docs` from them and from the docstrings above them.
The protocol of experiments is in [evaluation.md](evaluation.md).
"""


def page() -> str:
    """The content of docs/protocol.md."""
    return "\n".join([HEAD, *_round_loop(), *_close(), *_node(), *_secure_aggregation()])


def _round_loop() -> list[str]:
    ways, endings = outcomes.Outcome, outcomes.Ending
    edges = [
        ("[*]", "waiting", ""),
        ("waiting", "views", "min-nodes are usable"),
        ("views", "round", "written, or view-timeout is over"),
        *[("round", "round", outcome.name) for outcome in ways],
        *[("round", "evaluation", ending.name) for ending in endings],
        ("evaluation", "[*]", "completed or failed"),
    ]
    came_to = [(f"`{o.name}`", f"`{o.event}`", o.meaning) for o in ways]
    ends = [
        (f"`{e.name}`", e.meaning, "failed" if e.fails else "completed, if no round failed")
        for e in endings
    ]
    return [
        _section("The round loop", round_loop),
        _diagram(edges),
        markdown_table(
            ["a round comes to", "event in history.jsonl", "what follows"], came_to, "l"
        ),
        markdown_table(["the rounds end with", "when", "the run counts as"], ends, "l"),
    ]


def _close() -> list[str]:
    rows = [(f"`{s.name}`", f"`{s.listed}`", s.meaning) for s in closing.Standing]
    return [
        _section("The close of a round", closing),
        markdown_table(["a node is", "named in history.jsonl as", "what follows"], rows, "l"),
    ]


def _node() -> list[str]:
    rows = [
        (
            f"`{kind}`",
            _summary(duty.work),
            "opened" if duty.data else "",
            duty.other_catalog if duty.data else "",
            _summary(duty.views) if duty.views else "",
            "kept" if duty.keeps_model else "",
        )
        for kind, duty in duties.DUTIES.items()
    ]
    header = ["message", "what the node does", "its data", "another catalog is",
              "time for missing views", "received model"]  # fmt: skip
    return [_section("What a node answers", duties), markdown_table(header, rows, "l")]


def _secure_aggregation() -> list[str]:
    edges, rows = [], []
    for (state, packet), step in participant.STEPS.items():
        answer = step.answer.__name__ if step.answer else "masked vector"
        edges.append((state, step.then, f"{packet.__name__} / {answer}"))
        cells = (packet.__name__, packet.stage, _summary(step.take), answer, step.then)
        rows.append((state, *cells))
    header = ["state", "packet", "its stage", "what the node does", "answer", "next state"]
    return [
        _section("A node's side of secure aggregation", participant),
        _diagram([("[*]", edges[0][0], ""), *edges, (edges[-1][1], "[*]", "")]),
        markdown_table(header, rows, "l"),
    ]


def _section(title: str, module: ModuleType) -> str:
    """Heading, where the table is, and its essay: the docstring without its first line."""
    path = module.__name__.replace(".", "/")
    _, _, essay = (inspect.getdoc(module) or "").partition("\n\n")
    return f"## {title}\n\n*[{path}.py](../{path}.py)*\n\n{essay}\n"


def _diagram(edges: Iterable[tuple[str, str, str]]) -> str:
    lines = [f"    {a} --> {b}" + (f" : {label}" if label else "") for a, b, label in edges]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


def _summary(work: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(work) or "").partition("\n\n")[0].split())


if __name__ == "__main__":
    print(page(), end="")
