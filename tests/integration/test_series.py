"""Three nights over TLS and real processes: after the first the server is restored from a backup
and the catalog grows, in the second the server is killed and started again. Nobody touches the
nodes."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment_support import Terminals, leftovers, named, wait_for, write_prepared
from hosts_support import settings

from lumos_core import Catalog, RunConfig, load_model
from lumos_core.federation.warm_start import START_FACTS, StartFacts
from lumos_core.flower import commands
from lumos_core.runs.folder import read_config
from lumos_core.runs.history import read_history
from lumos_core.runs.series_file import SERIES, SeriesFile

pytestmark = [pytest.mark.integration, pytest.mark.faults]

SECONDS = 240.0  # for a night, on a busy machine
ROUNDS = 4


class Shop(Terminals):
    """A server with a timetable, and two nodes."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.kit = place / "deployment" / "server"
        self.series = self.kit / "series"
        self.data = write_prepared(place / "data")
        [port] = commands.free_ports(1)
        self.lumos("deploy", "init", "deployment", "--host", "127.0.0.1", "--nodes", "2",
                   "--port", str(port))  # fmt: skip

    def start_server(self, nights: int) -> "subprocess.Popen[bytes]":
        return self.start(
            "server", "deploy", "server", str(self.kit), "--bind", "127.0.0.1", "--every", "5s",
            "--nights", str(nights), "--catalog", str(self.data / "catalog.tsv"),
            "--rounds", str(ROUNDS), *settings(round_timeout="60", start_timeout="120"),
        )  # fmt: skip

    def start_nodes(self) -> None:
        for name in ("node-0", "node-1"):
            self.start(name, "node", "start", f"deployment/nodes/{name}", "--data", f"data/{name}")

    def restore_from_backup(self) -> None:
        """The recipe of docs/operations.md."""
        archive, folder = str(self.place / "backup.tgz"), str(self.kit.parent)
        subprocess.run(["tar", "-czf", archive, "-C", folder, "server"], check=True)
        shutil.rmtree(self.kit)
        subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True)

    def add_item(self, item: str) -> None:
        for file in self.data.rglob("catalog.tsv"):
            if not file.is_symlink():
                file.write_text(file.read_text() + item)

    def file(self) -> SeriesFile:
        return SeriesFile.read_if_there(self.series / SERIES) or SeriesFile()

    def rounds(self, night: str) -> int:
        history = read_history(self.series / "runs" / night / "history.jsonl")
        return sum(event["event"] == "round" for event in history)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    found = Shop(tmp_path)
    try:
        yield found
    finally:
        found.stop()
    assert leftovers(tmp_path, []) == []


@pytest.mark.timeout(1200)
def test_three_nights_on_a_timetable(shop: Shop) -> None:
    shop.start_nodes()
    assert shop.start_server(1).wait(SECONDS) == 0, shop.said("server")
    shop.restore_from_backup()
    shop.add_item("new\tthing number new\n")

    server = shop.start_server(3)
    night = wait_for(lambda: len(n := shop.file().nights) == 2 and n[1].name, SECONDS)
    wait_for(lambda: 0 < shop.rounds(night) < ROUNDS, SECONDS)
    for process in [*named(server.pid, "flwr-serverapp"), *named(server.pid, "flower-superlink")]:
        process.kill()
    server.kill()
    server.wait()
    assert shop.file().nights[1].outcome == "running"

    assert shop.start_server(3).wait(2 * SECONDS) == 0, shop.said("server")
    done = shop.file()
    assert [n.outcome for n in done.nights] == ["completed"] * 3
    assert [n.rounds for n in done.nights] == [ROUNDS] * 3
    assert done.nights[1].name == night
    assert done.ended == "3 nights are done, --nights 3"
    grown = Catalog.read(shop.data / "catalog.tsv")
    load_model(shop.series / "current", grown)
    seeds = [_config(shop, n.name).seed for n in done.nights]
    assert seeds == [0, 1, 2]
    for before, after in zip(done.nights, done.nights[1:], strict=False):
        in_use = [n.name for n in done.nights if n.promoted and n.name <= before.name][-1]
        facts = StartFacts.read(shop.series / "runs" / after.name / START_FACTS)
        assert Path(facts.source).name == in_use
    assert (shop.series / "current" / "report.md").stat().st_size > 0
    status = json.loads(shop.lumos("status", str(shop.series), "--json"))
    assert status["model"] == done.model


def _config(shop: Shop, night: str) -> RunConfig:
    found = read_config(shop.series / "runs" / night)
    assert found is not None
    return found
