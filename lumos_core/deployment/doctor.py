"""``lumos doctor``: the checks of a machine that its arguments choose, before it takes part."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from lumos_core.deployment import checks
from lumos_core.deployment.checks import Finding


def examine(
    node: Path | None,
    catalog: Path | None,
    certificates: Path | None,
    server: str | None,
    ports: list[int],
    llm: str | None,
) -> list[Finding]:
    """Run the checks for which there are arguments; none of them changes anything."""
    chosen: list[Iterable[Finding]] = [checks.python(), checks.flower(), *map(checks.port, ports)]
    if server is not None:
        chosen.append(checks.server(server))
    if certificates is not None:
        chosen.append(checks.certificates(certificates))
    chosen.append(checks.disk(node or Path()))
    if node is not None:
        chosen += [checks.data(node, catalog), checks.may_write(node)]
    if llm is not None:
        chosen += [checks.llm(llm), checks.memory(llm)]
    return list(chain(*chosen))
