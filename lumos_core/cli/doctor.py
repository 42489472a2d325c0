"""``lumos doctor``: what would keep a node or a server from working, and how to repair it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lumos_core.deployment.doctor import examine

if TYPE_CHECKING:
    from lumos_core.deployment.checks import Finding

NodeOption = Annotated[Path | None, typer.Option("--node", help="A node's data folder.")]
CatalogOption = Annotated[Path | None, typer.Option(help="The run's catalog.tsv, to compare with.")]
CertificatesOption = Annotated[
    Path | None, typer.Option("--certificates", help="Folder with certificates and keys.")
]
ServerOption = Annotated[
    str | None, typer.Option("--server", metavar="HOST:PORT", help="Must be reachable.")
]
ListenOption = Annotated[
    list[int] | None, typer.Option("--port", help="Must be free here; may be repeated.")
]
LLMOption = Annotated[str | None, typer.Option("--llm", help="The local LLM, as in the run.")]


def doctor_command(
    node: NodeOption = None,
    catalog: CatalogOption = None,
    certificates: CertificatesOption = None,
    server: ServerOption = None,
    port: ListenOption = None,
    llm: LLMOption = None,
) -> None:
    """Check this machine and print what is wrong. Exits 1 if anything fails."""
    findings = examine(node, catalog, certificates, server, port or [], llm)
    colour = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table("", "check", "found", "what to do")
    for f in findings:
        table.add_row(f"[{colour[f.level]}]{f.level}[/]", f.check, escape(f.found), escape(f.fix))
    Console().print(table)
    raise typer.Exit(int(any(_fails(f) for f in findings)))


def _fails(finding: "Finding") -> bool:
    return finding.level == "fail"
