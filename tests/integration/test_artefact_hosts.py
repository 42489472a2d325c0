"""Three machines and a server, with a home each, read each title once together: one node has the
catalog artefact beside its catalog, one takes it from the server, and one has a file that somebody
has changed, which is refused by name while the others go on."""

import json
import re
from pathlib import Path

import pytest
from deployment_support import wait_for
from hosts_support import Deployment
from namespaces import Network, require_namespaces
from tiny_llm import save_tiny_llm

from lumos_core.runs.history import read_history

pytestmark = pytest.mark.integration
HOSTS = ("beside", "fetching", "tampered")
FILE = "catalog.safetensors"


class Homes(Deployment):
    """Hosts that share no home folder, and so no cache."""

    def home_of(self, host: str) -> list[str]:
        home = self.home(host) / "home"
        home.mkdir(exist_ok=True)
        return ["env", f"HOME={home}", f"XDG_CACHE_HOME={home / 'cache'}"]

    def lumos(self, host: str, arguments: str, cwd: Path | None = None, seconds: float = 60):
        argv = [*self.home_of(host), *self.argv(arguments)]
        return self.network.run(host, argv, cwd or self.home(host), seconds)

    def start(self, host: str, arguments: str, *more: str):
        argv = [*self.home_of(host), *self.argv(arguments), *more]
        return self.network.start(host, argv, self.home(host), self.log(host))

    def tokens(self, host: str) -> int:
        """Of titles, that a node's language model has read."""
        log = (self.home(host) / "data/state/logs/superexec.log").read_text()
        return sum(map(int, re.findall(r"titles of the catalog: (\d+) tokens read", log)))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory):
    require_namespaces()
    with Network("server", *HOSTS) as network:
        yield Homes(network, tmp_path_factory.mktemp("deployment"), HOSTS)


def test_three_machines_read_each_title_once_together(hosts: Homes, tmp_path: Path) -> None:
    model = save_tiny_llm(tmp_path / "model")
    built = hosts.lumos("server", f"catalog build catalog.tsv --out {FILE} --llm {model}")
    assert built.returncode == 0, built.stdout
    all_titles = int(re.search(r"([\d,]+) tokens read", built.stdout)[1].replace(",", ""))
    digest = re.search("digest ([0-9a-f]{64})", built.stdout)[1]
    made = (hosts.home("server") / FILE).read_bytes()
    (hosts.home("beside") / "data" / FILE).write_bytes(made)
    changed = bytearray(made)
    changed[len(made) // 2] ^= 1
    (hosts.home("tampered") / "data" / FILE).write_bytes(changed)
    server = hosts.start_server(
        rounds=2, method="lumos", llm=str(model), catalog_artefact=digest, min_nodes="2",
        min_replies="2",
    )  # fmt: skip
    wait_for(hosts.serving, 90)
    nodes = []
    for number, host in enumerate(HOSTS):
        with (hosts.home(host) / f"node-{number}" / "node.toml").open("a") as file:
            file.write(f'llm = "{model}"\n')
        nodes.append(hosts.start(host, f"node start node-{number} --data data"))
    try:
        server.wait(240)
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait(30)
    assert server.returncode == 0, hosts.log("server").read_text()
    run_dir = hosts.home("server") / "server/run"
    assert json.loads((run_dir / "summary.json").read_text())["views"]["complete"] is True

    # four of forty titles, behind contexts, by those that use the file; nothing by the third
    assert 0 < hosts.tokens("beside") < all_titles / 4
    assert 0 < hosts.tokens("fetching") < all_titles / 4
    assert hosts.tokens("tampered") == 0
    catalogs = hosts.home("fetching") / "home/cache/lumos/catalogs"
    assert (catalogs / f"fetched-{digest}.safetensors").read_bytes() == made

    log = (hosts.home("tampered") / "data/state/node.log").read_text()
    assert f"data/{FILE}: catalog artefact refused: found" in log
    assert "node-2: " in hosts.log("server").read_text()
    assert "artefact-refused" in hosts.log("server").read_text()
    rounds = [e for e in read_history(run_dir / "history.jsonl") if e["event"] == "round"]
    assert [event["ok"] for event in rounds] == [["node-0", "node-1"]] * 2
