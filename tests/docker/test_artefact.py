"""Three containers read each title once together: a catalog artefact in the prepared data."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from compose_support import IMAGE, RUN, Project, docker
from deployment_support import write_prepared

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]
NODES = ("node-0", "node-1", "node-2")
ITEMS = 40
OPTIONS = (
    "--method lumos --rounds 1 -c semantic-start=none -c local-epochs=1 -c dim=16 -c min-nodes=3 "
    "-c min-replies=3"
)
_READ = re.compile(r"titles of the catalog: (\d+) tokens read")


class Stack(NamedTuple):
    """A run on one host, and the tokens that building the artefact took."""

    project: Project
    built: int


@pytest.fixture(scope="module")
def stack(image: str, prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("prepared")
    data = write_prepared(folder / "data", nodes=len(NODES), items=ITEMS)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    built = docker(
        "run", "--rm", "--user=0", f"--volume={data}:/data", IMAGE, "catalog", "build",
        "/data/catalog.tsv", "--out=/data/catalog.safetensors", seconds=900,
    )  # fmt: skip
    tokens = int(re.search(r"([\d,]+) tokens read", built)[1].replace(",", ""))
    digest = re.search("digest ([0-9a-f]{64})", built)[1]
    variables = {"LUMOS_SERVER_OPTIONS": f"{OPTIONS} -c catalog-artefact={digest}"}
    project = Project(f"{prefix}-artefact", "compose.yml", variables)
    try:
        project("run", "--rm", "--volume", f"{data}:/prepared:ro", "init")
        project("up", "--detach")
        yield Stack(project, tokens)
    finally:
        project.remove()


def test_the_run_completes_with_all_views(stack: Stack, tmp_path: Path) -> None:
    assert stack.project.wait_for_end(900) == 0
    stack.project("cp", f"server:{RUN}", str(tmp_path / "result"))
    summary = json.loads((tmp_path / "result/summary.json").read_text())
    assert summary["outcome"] == "completed"
    assert summary["views"]["complete"] is True


def test_no_container_has_read_all_titles(stack: Stack) -> None:
    """A few, to compare; the logs are those of the nodes that still run."""
    for node in NODES:
        log = stack.project.python(node, "print(open('/state/logs/superexec.log').read())")
        read = sum(map(int, _READ.findall(log)))
        assert 0 < read < stack.built / 3
