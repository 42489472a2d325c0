"""Fills the volumes of the containers of one host, once: credentials, catalog, histories.

    init.py node-0 node-1 …

Below ``/init`` is the volume ``server`` and one for each node. Data come from the folder
``/prepared``, as ``lumos prepare`` writes it, or are the bundled sample. The key of the certificate
authority is not kept: nobody can make further certificates for this deployment.
"""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lumos_core.data.layout import ARTEFACT_FILE, CATALOG_FILE, CATALOG_VERSIONS
from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import DATASET_FILE, node_folders
from lumos_core.data.sample import SAMPLE_DOMAIN, bundled_sample
from lumos_core.deployment import folders
from lumos_core.errors import ConfigError, LumosError

PREPARED = Path("/prepared")
VOLUMES = Path("/init")
HOST, PORT, DAYS = "server", 9092, 3650


def main(nodes: Sequence[str]) -> str:
    """Fill the volumes; returns what was done."""
    server = VOLUMES / "server"
    if (server / "kit").exists():
        if PREPARED.exists():
            raise ConfigError(
                f"{PREPARED}: is given, but the volumes hold a deployment with its data; "
                "to begin anew: docker compose down --volumes"
            )
        return "credentials and data are there"
    with tempfile.TemporaryDirectory() as place:
        data = _data(Path(place), len(nodes))
        deployment = Path(place) / "deployment"
        folders.create(deployment, [HOST], nodes, PORT, DAYS)
        for name in nodes:
            _put(deployment / "nodes" / name, VOLUMES / name / "bundle")
            _put(data / name, VOLUMES / name / "data")
        for name in (CATALOG_FILE, DATASET_FILE):
            shutil.copy(data / name, server / name)
        if (data / CATALOG_VERSIONS).is_file():
            shutil.copy(data / CATALOG_VERSIONS, server / CATALOG_VERSIONS)
        if (data / ARTEFACT_FILE).is_file():  # then no container reads all titles
            for folder in (server, *(VOLUMES / name / "data" for name in nodes)):
                shutil.copy(data / ARTEFACT_FILE, folder / ARTEFACT_FILE)
        _put(deployment / "server", server / "kit")  # the last: it says that all is there
    return f"credentials made; data: {PREPARED if PREPARED.exists() else 'the bundled sample'}"


def _data(place: Path, count: int) -> Path:
    if not PREPARED.exists():
        prepare(bundled_sample(), place / "data", nodes=count, seed=0, domain=SAMPLE_DOMAIN)
        return place / "data"
    found = [folder.name for folder in node_folders(PREPARED)]
    if len(found) != count:
        raise ConfigError(
            f"{PREPARED}: is prepared for {len(found)} nodes, expected {count}: "
            f"lumos prepare … --nodes {count}"
        )
    return PREPARED


def _put(source: Path, target: Path) -> None:
    """Copy a folder with its modes; what an earlier call that was interrupted left is replaced."""
    shutil.rmtree(target, ignore_errors=True)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    partial.rename(target)


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except LumosError as error:
        sys.exit(str(error))
